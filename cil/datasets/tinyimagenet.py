"""TinyImageNet: 200 classes of ImageNet at 64 px, 500 training images each; everyone tests on its validation images."""

from pathlib import Path

from cil.archives import PHOTOS, rows, text, tree
from cil.data import Images
from cil.datasets.listing import complete, listed, number, under
from cil.mistakes import Mistake
from cil.ranges import Count

FOLDER, ARCHIVE = "tiny-imagenet-200", "tiny-imagenet-200.zip"


def tinyimagenet(root: str, *, md5: str | None, train_per_class: Count | None, shorter_side: Count | None) -> Images:
    """Labels by sorted wnid, annotations read in place; `train_per_class`: only the first so many, by their numbers."""
    found = tree(Path(root), FOLDER, {ARCHIVE: md5}, "type make data DATASET=tinyimagenet, or data.root=DIR for where it is")
    wnids = sorted(text(found, "wnids.txt").split())
    words = dict(line for line in rows(found, "words.txt", "\t") if len(line) == 2)
    train = under(found, "train", PHOTOS)
    paths = [path for wnid in wnids for path in sorted(train.get(wnid, []), key=number)[:train_per_class]]
    label = {wnid: k for k, wnid in enumerate(wnids)}
    count, labels = len(paths), [label[path.split("/")[1]] for path in paths]
    for name, wnid, *_ in sorted(rows(found, "val/val_annotations.txt", "\t"), key=lambda line: number(line[0])):
        if f"val/images/{name}" in found:
            paths.append(f"val/images/{name}")
            labels.append(label.get(wnid, -1))
    if -1 in labels:
        raise Mistake("tinyimagenet: val/val_annotations.txt names a class that wnids.txt lacks; fetch the data set again")
    names = [words.get(wnid, wnid).split(",")[0] for wnid in wnids]
    images = listed("tinyimagenet", root, found, paths, labels, range(count), range(count, len(paths)), names, shorter_side)
    fewer = "fetch it again, or type dataset.train_per_class=N for the first N of each class"
    return complete(images, train=train_per_class or 500, test=50, remedy=fewer)
