"""ImageNet-R: 30,000 renditions of 200 ImageNet classes. There is no official split: `split` selects a convention."""

from collections.abc import Sequence
from pathlib import Path

from cil.common.ranges import Count
from cil.data.datasets.listing import files, listed, total, under
from cil.data.images import Images
from cil.data.registry.classes import class_list
from cil.data.registry.splits import imagenet_r_split


def imagenet_r(
    root: str, *, split: str, names: str, md5: str | None, images: Count | None, shorter_side: Count | None,
) -> Images:  # fmt: skip
    """ImageNet-R, with labels by sorted wnid. `split`: a name in cil/data/registry; `names`: readme, openai or lemma."""
    found = files("imagenet_r", root, md5)
    classes = class_list("imagenet_r")
    label = {wnid: k for k, wnid in enumerate(classes.wnids)}
    parts = [under(found, part) for part in (("train", "test") if split == "folders" else ("",))]  # PILOT's zip is split
    paths = [path for part in parts for wnid in classes.wnids for path in part.get(wnid, [])]
    total("imagenet_r", len(paths), images)
    if split == "folders":
        count = sum(path.startswith("train/") for path in paths)
        sides: tuple[Sequence[int], Sequence[int]] = range(count), range(count, len(paths))
    else:
        sides = imagenet_r_split(split, paths, Path(root) / "imagenet_r")
    labels = [label[path.split("/")[-2]] for path in paths]
    shown = [name.replace("_", " ") for name in classes.named(names)]
    return listed("imagenet_r", root, found, paths, labels, *sides, shown, shorter_side)
