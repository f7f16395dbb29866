"""CUB-200-2011: 200 species of birds, 5,994 training and 5,794 test photographs (official split)."""

from cil.common.ranges import Count
from cil.data.archives import rows
from cil.data.datasets.listing import files, listed, total
from cil.data.images import Images


def cub200(root: str, *, md5: str | None, images: Count | None, shorter_side: Count | None) -> Images:
    """CUB-200-2011. Labels follow the folder numbers; class names are the folders without number and underscores."""
    found = files("cub200", root, md5)
    path, folder, kind = (dict(rows(found, f"{name}.txt", " ")) for name in ("images", "classes", "train_test_split"))
    label = {number: int(k) - 1 for number, k in rows(found, "image_class_labels.txt", " ")}
    numbers = sorted(path, key=int)
    total("cub200", len(numbers), images)
    split = {word: [k for k, number in enumerate(numbers) if kind[number] == word] for word in "10"}
    names = [folder[k].partition(".")[2].replace("_", " ") for k in sorted(folder, key=int)]
    paths, labels = [f"images/{path[number]}" for number in numbers], [label[number] for number in numbers]
    return listed("cub200", root, found, paths, labels, split["1"], split["0"], names, shorter_side)
