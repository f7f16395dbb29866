"""The three layouts of ImageNet and the three lists that are called ImageNet100."""

import io
import tarfile

import numpy as np
import pytest

from cil.data import image_store
from cil.data.registry.classes import class_list
from tests.data.datasets import miniature
from tests.data.datasets.miniature import photo, read


def official(train: dict, val: dict, folder, wnids) -> None:
    """The three archives of ILSVRC-2012, with IDs of classes that are not in the order of wnids."""
    from scipy.io import savemat

    folder.mkdir()
    tars = {}
    for wnid in wnids:
        inner = io.BytesIO()
        with tarfile.open(fileobj=inner, mode="w") as opened:
            for name, content in train.items():
                if f"/{wnid}/" in name:
                    info = tarfile.TarInfo(name.split("/")[-1])
                    info.size = len(content)
                    opened.addfile(info, io.BytesIO(content))
        tars[f"{wnid}.tar"] = inner.getvalue()
    miniature.tarred(tars, folder / "ILSVRC2012_img_train.tar")
    miniature.tarred({name.split("/")[-1]: content for name, content in val.items()}, folder / "ILSVRC2012_img_val.tar")
    number = {wnid: len(wnids) - k for k, wnid in enumerate(wnids)}
    table = np.array([(number[w], w) for w in sorted(wnids)], dtype=[("ILSVRC2012_ID", "i4"), ("WNID", "U9")])
    meta = io.BytesIO()
    savemat(meta, {"synsets": table})
    truth = "\n".join(str(number[name.split("/")[1]]) for name in sorted(val, key=lambda name: name.split("/")[-1]))
    miniature.tarred({"ILSVRC2012_devkit_t12/data/meta.mat": meta.getvalue(),
                      "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": truth.encode()},
                     folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz")  # fmt: skip


@pytest.mark.parametrize("layout", ["classes", "kaggle", "official"])
@pytest.mark.parametrize("chosen", ["first", "seed1993", "cmc"])
def test_imagenet100(tmp_path, layout, chosen):
    wnids = class_list(f"imagenet100_{chosen}").wnids
    train, val = miniature.imagenet((*wnids, "n99999999"))
    folder = tmp_path / "imagenet"
    if layout == "classes":
        miniature.lay(train | val, folder)
    elif layout == "kaggle":
        flat = {f"val/{name.split('/')[-1]}": content for name, content in val.items()}
        miniature.lay(train | flat, folder / "ILSVRC" / "Data" / "CLS-LOC")
        rows = [f"{name.split('/')[-1].removesuffix('.JPEG')},{name.split('/')[1]} 1 2 3 4 " for name in val]
        (folder / "ILSVRC" / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))
    else:
        official(train, val, folder, (*wnids, "n99999999"))
    free = [f"dataset.md5.{key}=null" for key in ("train", "val", "devkit")] + ["dataset.test_per_class=null"]
    images = read("imagenet100", tmp_path, f"dataset.classes={chosen}", *free)
    assert (len(images.train), len(images.test)) == (200, 100)
    assert images.train_labels.tolist() == [k // 2 for k in range(200)]
    for label in (0, 57, 99):
        wnid = wnids[label]
        assert np.array_equal(photo(images.train, 2 * label + 1), miniature.pixels(train[f"train/{wnid}/{wnid}_1.JPEG"]))
        assert np.array_equal(
            photo(images.test, label), miniature.pixels(val[f"val/{wnid}/ILSVRC2012_val_{label + 1:08d}.JPEG"])
        )


def test_the_lists_share_what_is_decoded(tmp_path, monkeypatch):
    """The second list decodes only the classes that the first has not."""
    first, second = (class_list(f"imagenet100_{name}").wnids for name in ("first", "cmc"))
    train, val = miniature.imagenet(sorted({*first, *second}))
    miniature.lay(train | val, tmp_path / "imagenet")
    decoded, real = [], image_store.decode
    monkeypatch.setattr(image_store, "decode", lambda member, name, size: (decoded.append(name), real(member, name, size))[1])
    images = {}
    for name in ("first", "cmc"):
        images[name] = read("imagenet100", tmp_path, f"dataset.classes={name}", "dataset.test_per_class=null")
    assert {name.split("/")[1] for name in decoded} == {*first, *second} and {*first} & {*second}
    assert len(decoded) == len({*decoded}) == 3 * len({*first, *second})
    label = next(k for k, wnid in enumerate(second) if wnid in first)
    assert np.array_equal(photo(images["cmc"].train, 2 * label), photo(images["first"].train, 2 * first.index(second[label])))
