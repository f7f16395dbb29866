"""TinyImageNet: 200 classes of ImageNet at 64 px, 500 training images each; everyone tests on its validation images."""

from collections.abc import Sequence
from pathlib import Path

from cil.archives import PHOTOS, rows, text, tree
from cil.data import Images
from cil.datasets.listing import complete, listed, number, under
from cil.mistakes import Mistake
from cil.registry.orders import class_order

FOLDER, ARCHIVE = "tiny-imagenet-200", "tiny-imagenet-200.zip"
HALVES = ("first", "second")
SPLIT = "numpy:1993"  # the class order whose first hundred are the first half


def tinyimagenet(
    root: str, *, md5: str | None, train_per_class: int | None, shorter_side: int | None, half: str | None = None,
    test_per_class: int | None = None,
) -> Images:  # fmt: skip
    """Labels by sorted wnid, annotations read in place.

    `train_per_class`, `test_per_class`: only the first so many of each class, by their numbers. `half`: the classes that are
    the first or the second hundred of class order numpy:1993; scripts/recover.py learns on the first.
    """
    found = tree(Path(root), FOLDER, {ARCHIVE: md5}, "type make data DATASET=tinyimagenet, or data.root=DIR for where it is")
    for name, count, most in (("train_per_class", train_per_class, 500), ("test_per_class", test_per_class, 50)):
        if count is not None and count < 1:
            raise Mistake(f"dataset.{name}={count} is no number of images; type 1 to {most}, or null for all")
    every = sorted(text(found, "wnids.txt").split())
    wnids = every if half is None else _half(every, half)
    words = dict(line for line in rows(found, "words.txt", "\t") if len(line) == 2)
    train = under(found, "train", PHOTOS)
    paths = [path for wnid in wnids for path in sorted(train.get(wnid, []), key=number)[:train_per_class]]
    label = {wnid: k for k, wnid in enumerate(wnids)}
    count, labels, tested = len(paths), [label[path.split("/")[1]] for path in paths], [0] * len(wnids)
    for name, wnid, *_ in sorted(rows(found, "val/val_annotations.txt", "\t"), key=lambda line: number(line[0])):
        if f"val/images/{name}" in found and (wnid in label or wnid not in every):
            of = label.get(wnid, -1)
            if of == -1 or test_per_class is None or tested[of] < test_per_class:
                paths.append(f"val/images/{name}")
                labels.append(of)
                tested[of] += 1
    if -1 in labels:
        raise Mistake("tinyimagenet: val/val_annotations.txt names a class that wnids.txt lacks; fetch the data set again")
    names = [words.get(wnid, wnid).split(",")[0] for wnid in wnids]
    images = listed("tinyimagenet", root, found, paths, labels, range(count), range(count, len(paths)), names, shorter_side)
    fewer = "fetch it again, or type dataset.train_per_class=N for the first N of each class"
    return complete(images, train=train_per_class or 500, test=test_per_class or 50, remedy=fewer)


def _half(wnids: Sequence[str], half: str) -> list[str]:
    if half not in HALVES:
        raise Mistake(f"dataset.half={half} is not known; type dataset.half=first, second, or null for all classes")
    order, middle = class_order(SPLIT, len(wnids)), len(wnids) // 2
    return [wnids[k] for k in sorted(order[:middle] if half == "first" else order[middle:])]
