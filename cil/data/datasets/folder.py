"""Any dataset of images that has a folder for each class."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cil.common.errors import UserError
from cil.common.ranges import Count, Part, Seed
from cil.data.archives import Tree, text, tree
from cil.data.datasets.listing import listed, under
from cil.data.images import Images


def folder(
    root: str, *, path: str, train: str | None, test: str | None, share: Part, seed: Seed, shorter_side: Count | None
) -> Images:
    """Images from a folder (or a .zip or .tar of it) at `path` below the data root. Class names are the names of its folders.

    `train` and `test` are folders in it, or text files in it that list one image per line. Without `test`, and if there are
    neither of the two folders, a fraction `1 - share` of the images of each class is drawn with `seed` for the test.
    """
    train, test = (side.strip("/") if isinstance(side, str) else side for side in (train, test))
    place = Path(path).name
    top = place.removesuffix(".zip").removesuffix(".tar")
    found = tree(Path(root) / Path(path).parent, top, {f"{top}.zip": None, f"{top}.tar": None}, "type dataset.path=…")
    while len(tops := {path.partition("/")[0] for path in found}) == 1 and all(path.count("/") > 1 for path in found):
        if {only := tops.pop()} & {train, test}:
            break
        found = {path.removeprefix(f"{only}/"): member for path, member in found.items()}  # a folder around the classes
    if (train, test) == ("train", "test") and not any(path.startswith(("train/", "test/")) for path in found):
        train = test = None  # one folder per class
    if test is None:
        paths, label_of = _images(found, train)
        rows: tuple[Sequence[int], Sequence[int]] = _draw([label_of[path] for path in paths], share, seed, path)
    else:
        sides = [_images(found, side) for side in (train, test)]
        paths, label_of = sides[0][0] + sides[1][0], sides[0][1] | sides[1][1]
        rows = range(len(sides[0][0])), range(len(sides[0][0]), len(paths))
        twice = set(sides[0][0]) & set(sides[1][0])
        if twice:
            raise UserError(f"{path}: {len(twice)} images are in training and test, first {min(twice)}; correct the lists")
    names = sorted(set(label_of.values()))
    if (empty := _empty(found, paths, label_of)) and not {train, test} & {*found}:  # lists say themselves what is a class
        raise UserError(f"{empty} has no files, so it is no class; put images into it, or delete it")
    label = {name: k for k, name in enumerate(names)}
    labels = [label[label_of[path]] for path in paths]
    return listed(f"folder_{top}", root, found, paths, labels, *rows, [n.replace("_", " ") for n in names], shorter_side)


def _images(found: Tree, side: str | None) -> tuple[list[str], dict[str, str]]:
    """Return the images of a folder or of a list, and the class of each, which is the name of its folder."""
    if side is not None and side in found:
        paths = [line.strip() for line in text(found, side).splitlines() if line.strip()]
        absent = [path for path in paths if path not in found]
        if absent:
            raise UserError(f"{side} names {len(absent)} images that are not there, first {absent[0]}; correct the list")
        return paths, {path: path.split("/")[-2] for path in paths}
    classes = under(found, side or "")
    if not classes:
        what = f"neither a folder of images {side} in the dataset nor a list" if side else "no folder of images in the dataset"
        raise UserError(f"there is {what}; type dataset.train=FOLDER or a file that lists them")
    return [p for paths in classes.values() for p in paths], {p: name for name, paths in classes.items() for p in paths}


def _empty(found: Tree, paths: Sequence[str], label_of: Mapping[str, str]) -> Path | None:
    """A folder without files beside those of the classes, if there is one. An archive has none."""
    classes = set(label_of.values())
    holding = {str(found[path].file).rpartition("/")[0] for path in paths}  # few, though there may be a million files
    parents = map(Path, holding)
    beside = {parent.parent for parent in parents if parent.name in classes and parent.is_dir()}
    folders = sorted(folder for around in beside for folder in around.iterdir() if folder.is_dir())
    others = (folder for folder in folders if folder.name not in classes and folder.name[0] not in "._")
    return next((folder for folder in others if not any(file.is_file() for file in folder.rglob("*"))), None)


def _draw(labels: list[str], share: float, seed: int, path: str) -> tuple[list[int], list[int]]:
    """Split the rows of each class at random into training and test rows."""
    random = np.random.RandomState(seed)
    train: list[int] = []
    test: list[int] = []
    for name in sorted(set(labels)):
        rows = [row for row, label in enumerate(labels) if label == name]
        order = random.permutation(len(rows))
        count = int(share * len(rows))
        if len(rows) == 1:
            raise UserError(f"{path}: class {name} has one image, none of which is left for the test; add another, or type "
                            "dataset.test=FOLDER")  # fmt: skip
        if not 0 < count < len(rows):
            raise UserError(f"{path}: dataset.share={share} of the {len(rows)} images of class {name} leaves none for training "
                            "or for the test; type another such as dataset.share=0.5, or dataset.test=FOLDER")  # fmt: skip
        train += [rows[k] for k in order[:count]]
        test += [rows[k] for k in order[count:]]
    return sorted(train), sorted(test)
