"""ImageNet100: one hundred classes of ILSVRC-2012. Papers use different lists of classes, so each list has a name."""

from itertools import accumulate
from pathlib import Path

from cil.common.errors import UserError
from cil.common.ranges import Count
from cil.data.archives import Member, Tree, check, inside, members, rows, tree
from cil.data.datasets.listing import complete, listed, under
from cil.data.images import Images
from cil.data.registry.classes import class_list

TRAIN, VAL, KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"


def imagenet100(
    root: str, *, classes: str, names: str, md5: dict[str, str | None], test_per_class: Count | None, shorter_side: Count | None
) -> Images:
    """ImageNet100. `classes`: a list of cil/data/registry (first, seed1993, cmc, …); `names`: openai, lemma or its own."""
    chosen = class_list(f"imagenet100_{classes}")
    found, train, val = _found(Path(root) / "imagenet", set(chosen.wnids), md5)
    paths = [path for part in (train, val) for wnid in chosen.wnids for path in part.get(wnid, [])]
    labels = [k for part in (train, val) for k, wnid in enumerate(chosen.wnids) for _ in part.get(wnid, [])]
    counts = [len(part.get(wnid, [])) for part in (train, val) for wnid in chosen.wnids]
    count = sum(counts[: len(chosen.wnids)])
    shown = [name.replace("_", " ") for name in chosen.named(names)]
    split = range(count), range(count, len(paths))
    groups = tuple(accumulate(counts))[:-1]  # decoded classes have separate folders, which all lists share
    images = listed(
        f"imagenet100_{classes}", root, found, paths, labels, *split, shown, shorter_side, stored="imagenet100", groups=groups
    )
    return complete(images, test=test_per_class, remedy="unpack it again, or type dataset.test_per_class=null")


def _found(folder: Path, wnids: set[str], md5: dict) -> tuple[Tree, dict[str, list[str]], dict[str, list[str]]]:
    """Return the places of all files, and the training and the validation files of each class."""
    if (folder / TRAIN).is_file() and not (folder / "train").is_dir():
        return _official(folder, wnids, md5)
    if not folder.is_dir():
        raise UserError(f"{folder} is not there; type make data DATASET=imagenet100 for the layout that is wanted")
    kaggle = folder / "ILSVRC" / "Data" / "CLS-LOC"
    top = kaggle if kaggle.is_dir() else folder
    found: dict[str, Member] = {}
    for part in [f"train/{wnid}" for wnid in wnids] + [f"val/{wnid}" for wnid in wnids]:
        if (top / part).is_dir():
            found |= {f"{part}/{path}": member for path, member in tree(top, part, {}, "").items()}
    train, val = under(found, "train"), under(found, "val")
    if not val and (folder / "ILSVRC" / "LOC_val_solution.csv").is_file():
        answers = rows(tree(folder, "ILSVRC", {}, ""), "LOC_val_solution.csv", ",")
        val = _flat(tree(top, "val", {}, ""), {line[0]: line[1].split()[0] for line in answers if " " in line[1]}, wnids, found)
    return found, train, val


def _flat(flat: Tree, wnid_of: dict[str, str], wnids: set[str], found: dict) -> dict[str, list[str]]:
    """Sort validation files of one folder by class. Adds them to `found` under the paths that a folder per class would give."""
    val: dict[str, list[str]] = {}
    for path in sorted(flat):
        wnid = wnid_of.get(path.split("/")[-1].partition(".")[0])
        if wnid in wnids:
            place = f"val/{wnid}/{path.split('/')[-1]}"
            found[place] = flat[path]
            val.setdefault(wnid, []).append(place)
    return val


def _official(folder: Path, wnids: set[str], md5: dict) -> tuple[Tree, dict[str, list[str]], dict[str, list[str]]]:
    for key, name in (("train", TRAIN), ("val", VAL), ("devkit", KIT)):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is not there; type make data DATASET=imagenet100 for the layout that is wanted")
        check(folder / name, md5[key], f"dataset.md5.{key}")
    found: dict[str, Member] = {}
    for name, member in members(folder / TRAIN).items():
        wnid = name.removesuffix(".tar")
        if wnid in wnids:
            found |= {f"train/{wnid}/{path}": place for path, place in inside(member).items()}
    train = under(found, "train")
    return found, train, _flat(members(folder / VAL), _answers(folder / KIT), wnids, found)


def _answers(kit: Path) -> dict[str, str]:
    """Read the development kit: the name of each validation image (ILSVRC2012_val_00000001) → its wnid."""
    import io
    import tarfile

    from scipy.io import loadmat

    with tarfile.open(kit) as opened:

        def content(name: str) -> bytes:
            file = opened.extractfile(f"ILSVRC2012_devkit_t12/data/{name}")
            assert file is not None, "not a folder"
            return file.read()

        meta = loadmat(io.BytesIO(content("meta.mat")), squeeze_me=True)["synsets"]
        truth = content("ILSVRC2012_validation_ground_truth.txt").split()
    wnid = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in meta}
    return {f"ILSVRC2012_val_{number:08d}": wnid[int(answer)] for number, answer in enumerate(truth, 1)}
