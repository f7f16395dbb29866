"""Training and test splits of ImageNet-R, which has no official split: rules and fixed lists, by name."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cil.common.errors import UserError, nearest
from cil.data.registry.listfile import digest

Rows = tuple[list[int], list[int]]  # rows of the sorted file list: training, test

SPLITS = ("coda", "random:SEED", "stratified:SEED", "rapf", "tfds", "folders")
CODA = {  # file: md5
    "imagenet-r_train.yaml": "b90d9c763369c87dbd9becb80abd83b3",
    "imagenet-r_test.yaml": "3ea5a3aa2e96578874254d4ee87321b3",
}
RAPF = "imgr_train_test_split.txt"
TFDS = "tfds_order.txt"


def imagenet_r_split(convention: str, files: Sequence[str], folder: Path) -> Rows:
    """Return the training rows and the test rows of `files`, each sorted.

    `files` is the sorted list of all files ('n01443537/art_0.jpg', …). Fixed lists are read from `folder`/splits.
    """
    if list(files) != sorted(files):
        raise ValueError("imagenet_r_split() takes the files sorted by wnid, then name; random splits depend on it")
    kind, colon, seed = convention.partition(":")
    if seed.isdecimal() and kind in ("random", "stratified"):
        return _random(len(files), int(seed)) if kind == "random" else _stratified(files, int(seed))
    lists = {"coda": _coda, "rapf": _rapf, "tfds": _tfds}
    if kind in lists and not colon:
        return _checked(convention, *lists[kind](Path(folder) / "splits"), files)
    if convention == "folders":
        raise UserError("dataset.split=folders needs PILOT's archive with its folders train and test, this one has neither; "
                        "unpack that one, or type dataset.split=coda")  # fmt: skip
    if kind in ("random", "stratified"):
        raise UserError(f"dataset.split={convention} has no whole number for a seed; type dataset.split={kind}:42")
    raise UserError(f"dataset.split={convention} is not known; {nearest(convention, SPLITS)}")


def split_digest(files: Sequence[str], train: Sequence[int], test: Sequence[int]) -> str:
    """Hash of the sorted class folders and names of each side's files. It is equal for all layouts of the same split."""
    return digest(tuple(sorted(_name(files[row]) for row in side) for side in (train, test)))


def _random(count: int, seed: int) -> Rows:
    # the same permutation as that of the global CPU generator right after seeding
    import torch

    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[: count * 4 // 5]), sorted(order[count * 4 // 5 :])


def _stratified(files: Sequence[str], seed: int) -> Rows:
    random = np.random.RandomState(seed)
    rows: dict[str, list[int]] = {}
    for row, file in enumerate(files):
        rows.setdefault(file.split("/")[0], []).append(row)
    train, test = [], []
    for own in rows.values():
        shuffled = random.permutation(own).tolist()
        train += shuffled[: len(own) * 4 // 5]
        test += shuffled[len(own) * 4 // 5 :]
    return sorted(train), sorted(test)


def _coda(folder: Path) -> tuple[list[str], list[str]]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    sides = []
    for name, md5 in CODA.items():
        content = _content(
            folder / name,
            f"fetch {' and '.join(CODA)} from datasets/imagenet_r_utils/ of github.com/aimagelab/mammoth into {folder} "
            "(rows of PGP: dataset.split=random:43 or random:59)",
        )
        if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
            raise UserError(f"{folder / name} has md5 {found}, CODA-Prompt's list has {md5}; fetch it again")
        sides.append(yaml.load(content, loader)["data"])
    return sides[0], sides[1]


def _rapf(folder: Path) -> tuple[list[str], list[str]]:
    file = folder / RAPF
    lines = _content(file, f"fetch imgr_split/{RAPF} from github.com/linlany/RAPF into {folder}, or type "
                     "dataset.split=stratified:0").decode().split()  # fmt: skip
    if lines[:1] != ["train"] or lines.count("test") != 1:
        raise UserError(f"{file} must have a line train, its paths, a line test, its paths; fetch it again")
    middle = lines.index("test")
    return lines[1:middle], lines[middle + 1 :]


def _tfds(folder: Path) -> tuple[list[str], list[str]]:
    names = _content(folder / TFDS, "the archive does not tell TFDS' order: where tensorflow_datasets is, read its imagenet_r, "
                     f"split test, unshuffled, write each example's wnid/file name as a line to {folder / TFDS}, "
                     "or type dataset.split=coda").decode().split()  # fmt: skip
    return names[: len(names) * 4 // 5], names[len(names) * 4 // 5 :]


def _content(file: Path, remedy: str) -> bytes:
    if not file.is_file():
        raise UserError(f"{file} is not there; {remedy}")
    return file.read_bytes()


def _checked(convention: str, train: Sequence[str], test: Sequence[str], files: Sequence[str]) -> Rows:
    """Return the rows of two lists of paths. Raise a UserError unless they name every file exactly once."""
    rows = {name: row for row, name in enumerate(files)}
    sides = [[_name(path) for path in side] for side in (train, test)]
    named = sides[0] + sides[1]
    absent, twice = len(set(named) - set(rows)), len(named) - len(set(named))
    left = len(set(rows) - set(named))
    if absent or twice or left:
        raise UserError(f"dataset.split={convention} names {len(named)} files, {absent} of them absent, {twice} repeated, and "
                        f"leaves out {left} of {len(files)}; unpack the archive again, or fetch the list again")  # fmt: skip
    return sorted(rows[name] for name in sides[0]), sorted(rows[name] for name in sides[1])


def _name(path: str) -> str:
    return "/".join(path.replace("\\", "/").split("/")[-2:])
