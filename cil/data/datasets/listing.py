"""Builds a dataset from lists of files and labels, and checks the number of images of each class."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from cil.common.errors import UserError
from cil.data.archives import Member, Tree, tree
from cil.data.datasets.places import KNOWN
from cil.data.image_store import Photos, Size
from cil.data.images import Images

PHOTOS = (".jpeg", ".jpg", ".png")


def files(name: str, root: str, md5: str | None) -> Tree:
    """List the files of a dataset of `KNOWN`, from its folder or its archive."""
    folder, archive = KNOWN[name].any_of
    return tree(Path(root), folder, {archive: md5}, f"type make data DATASET={name}, or data.root=DIR for where it is")


def listed(
    name: str, root: str, found: Mapping[str, Member], paths: Sequence[str], labels: Sequence[int], train: Sequence[int],
    test: Sequence[int], class_names: Sequence[str], shorter_side: int | None, *, stored: str | None = None,
    groups: Sequence[int] = (),
) -> Images:  # fmt: skip
    """Return the dataset of the photographs `paths` of `found`. Its splits are the rows `train` and `test` of `paths`.

    `stored`: the folder below `decoded`, by default `name`. `groups`: rows at which a group begins that other datasets share.
    """
    absent = [path for path in paths if path not in found]
    if absent:
        raise UserError(f"{name}: {len(absent)} of {len(paths)} photographs are not there, first {absent[0]}; fetch it again")
    size = None if shorter_side is None else Size(shorter_side)
    members = [found[path] for path in paths]
    photos = Photos(Path(root) / "decoded" / (stored or name), paths, members, size, torch.arange(len(paths)), groups)
    every = torch.as_tensor(labels, dtype=torch.long)
    split = [torch.as_tensor(rows, dtype=torch.long) for rows in (train, test)]
    images = Images(name, photos.take(split[0]), every[split[0]], photos.take(split[1]), every[split[1]], tuple(class_names),
                    listing=_listing(paths, members, labels, train, test, class_names),
                    sizes=_sizes(members, labels, train, test))  # fmt: skip
    return complete(images)


def _listing(paths: Sequence[str], members: Sequence[Member], labels: Sequence[int], *others: Sequence) -> str:
    times = {file: Path(file).stat().st_mtime_ns for file in {member.file for member in members}}
    sha = hashlib.sha256(repr([list(other) for other in others]).encode())
    for path, member, label in zip(paths, members, labels, strict=True):
        sha.update(f"{path} {member.size} {times[member.file]} {label}\n".encode())
    return sha.hexdigest()[:16]


def _sizes(members: Sequence[Member], *others: Sequence[int]) -> str:
    if any(member.packing == "deflated" for member in members):  # their sizes are not those of the unpacked files
        return ""
    facts = [[member.size for member in members], *map(list, others)]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def complete(images: Images, *, train: int | None = None, test: int | None = None, remedy: str = "") -> Images:
    """Return `images`. Raise a UserError if a class is empty or has not `train` and `test` images, where these are given."""
    for split, labels, wanted in (("training", images.train_labels, train), ("test", images.test_labels, test)):
        counts = labels.bincount(minlength=len(images.class_names)).tolist()
        wrong = [label for label, count in enumerate(counts) if (count != wanted if wanted else not count)]
        if wrong:
            first, of = wrong[0], f" of {wanted}" if wanted else ""
            more = f", and {len(wrong) - 1} more classes have a wrong number" if len(wrong) > 1 else ""
            raise UserError(f"{images.name}: class {first} ({images.class_names[first]}) has {counts[first]}{of} {split} images"
                            f"{more}; {remedy or 'add some, or fetch the dataset again'}")  # fmt: skip
    return images


def total(name: str, count: int, wanted: int | None) -> None:
    """Raise a UserError if a dataset is incomplete, for example not fully unpacked. None: any number is accepted."""
    if wanted is not None and count != wanted:
        raise UserError(f"{name} has {count} images, wanted are {wanted}; unpack or fetch it again, or type "
                        f"dataset.images={count} to use it anyway")  # fmt: skip


def under(found: Mapping[str, Member], folder: str) -> dict[str, list[str]]:
    """Return the photographs of `folder`/<class>/… by class. Classes and files are sorted by name, as in ImageFolder."""
    classes: dict[str, list[str]] = {}
    prefix = f"{folder}/" if folder else ""
    for path in found:
        if path.startswith(prefix) and path.lower().endswith(PHOTOS):
            label, _, rest = path[len(prefix) :].partition("/")
            if rest:
                classes.setdefault(label, []).append(path)
    return {label: sorted(classes[label]) for label in sorted(classes)}


def number(path: str) -> tuple[int, str]:
    """Return a sort key for numbered files: n01443537_10.JPEG comes after n01443537_9.JPEG."""
    digits = path.rsplit("_", 1)[-1].split(".")[0]
    return (int(digits) if digits.isdigit() else -1), path


def listing_digest(images: Images) -> str:
    """Hash of the files and labels of each split, as 16 hex digits. Datasets without files are hashed by their pixels."""
    if not isinstance(images.train, Photos) or not isinstance(images.test, Photos):
        return images.digest
    sha = hashlib.sha256("\n".join(images.class_names).encode())
    for photos, labels in ((images.train, images.train_labels), (images.test, images.test_labels)):
        for row, label in zip(photos.rows.tolist(), labels.tolist(), strict=True):
            sha.update(f"{photos.names[row]} {label}\n".encode())
    return sha.hexdigest()[:16]
