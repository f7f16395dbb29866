"""TinyImageNet: 200 classes of ImageNet at 64 px, 500 training images each. Its validation images are the test split."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from cil.common.errors import UserError
from cil.common.ranges import Count
from cil.data.archives import Tree, rows, text
from cil.data.datasets.listing import complete, files, listed, number, under
from cil.data.images import Images
from cil.data.registry.orders import class_order

SPLIT = "numpy:1993"  # the class order that defines the halves


def tinyimagenet(
    root: str, *, md5: str | None, train_per_class: Count | None, shorter_side: Count | None,
    test_per_class: Count | None = None,
) -> Images:  # fmt: skip
    """All classes of TinyImageNet, with labels by sorted wnid.

    `train_per_class`, `test_per_class`: use only this many images of each class, the first by file number.
    """
    return _images(root, md5, None, train_per_class, test_per_class, shorter_side)


def half(
    root: str, *, md5: str | None, half: Literal["first", "second"], train_per_class: Count | None,
    test_per_class: Count | None, shorter_side: Count | None,
) -> Images:  # fmt: skip
    """The first or last 100 classes in class order numpy:1993. scripts/recover.py trains on the first half."""
    return _images(root, md5, half, train_per_class, test_per_class, shorter_side)


def _images(
    root: str, md5: str | None, half: str | None, train_per_class: int | None, test_per_class: int | None,
    shorter_side: int | None,
) -> Images:  # fmt: skip
    found = files("tinyimagenet", root, md5)
    every = sorted(text(found, "wnids.txt").split())
    wnids = every if half is None else _of_half(every, half)
    words = dict(line for line in rows(found, "words.txt", "\t") if len(line) == 2)
    train = under(found, "train")
    paths = [path for wnid in wnids for path in sorted(train.get(wnid, []), key=number)[:train_per_class]]
    label = {wnid: k for k, wnid in enumerate(wnids)}
    count, labels = len(paths), [label[path.split("/")[1]] for path in paths]
    tested: Counter[str] = Counter()
    for path, wnid in _annotated(found, every):
        tested[wnid] += 1
        if wnid in label and (test_per_class is None or tested[wnid] <= test_per_class):
            paths.append(path)
            labels.append(label[wnid])
    names = [words.get(wnid, wnid).split(",")[0] for wnid in wnids]
    images = listed("tinyimagenet", root, found, paths, labels, range(count), range(count, len(paths)), names, shorter_side)
    fewer = "fetch it again, or type dataset.train_per_class=N for the first N of each class"
    return complete(images, train=train_per_class or 500, test=test_per_class or 50, remedy=fewer)


def _annotated(found: Tree, wnids: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the path and the class of each validation image that exists, ordered by file number."""
    known = set(wnids)
    for name, wnid, *_ in sorted(rows(found, "val/val_annotations.txt", "\t"), key=lambda line: number(line[0])):
        if f"val/images/{name}" in found:
            if wnid not in known:
                raise UserError("tinyimagenet: val/val_annotations.txt names a class that wnids.txt lacks; fetch the dataset "
                                "again")  # fmt: skip
            yield f"val/images/{name}", wnid


def _of_half(wnids: Sequence[str], half: str) -> list[str]:
    order, middle = class_order(SPLIT, len(wnids)), len(wnids) // 2
    return [wnids[k] for k in sorted(order[:middle] if half == "first" else order[middle:])]
