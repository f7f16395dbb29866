"""CUB-200-2011: 200 species of birds, 5,994 training and 5,794 test photographs (official split)."""

from pathlib import Path

from cil.common.ranges import Count
from cil.data.archives import rows, tree
from cil.data.datasets.listing import listed, total
from cil.data.datasets.places import KNOWN
from cil.data.images import Images

FOLDER, ARCHIVE = KNOWN["cub200"].any_of


def cub200(root: str, *, md5: str | None, images: Count | None, shorter_side: Count | None) -> Images:
    """CUB-200-2011. Labels follow the folder numbers; class names are the folders without number and underscores."""
    found = tree(Path(root), FOLDER, {ARCHIVE: md5}, "type make data DATASET=cub200, or data.root=DIR for where it is")
    path, folder, kind = (dict(rows(found, f"{name}.txt", " ")) for name in ("images", "classes", "train_test_split"))
    label = {number: int(k) - 1 for number, k in rows(found, "image_class_labels.txt", " ")}
    numbers = sorted(path, key=int)
    total("cub200", len(numbers), images)
    split = {word: [k for k, number in enumerate(numbers) if kind[number] == word] for word in "10"}
    names = [folder[k].partition(".")[2].replace("_", " ") for k in sorted(folder, key=int)]
    paths, labels = [f"images/{path[number]}" for number in numbers], [label[number] for number in numbers]
    return listed("cub200", root, found, paths, labels, split["1"], split["0"], names, shorter_side)
