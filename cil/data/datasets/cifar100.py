"""CIFAR100 from its official Python archive, packed or unpacked."""

import pickle
from pathlib import Path

import numpy as np
import torch

from cil.common.errors import UserError
from cil.common.ranges import Count
from cil.data.archives import check, unpack
from cil.data.datasets.listing import complete, total
from cil.data.datasets.places import KNOWN
from cil.data.images import Images

FOLDER, ARCHIVE = KNOWN["cifar100"].any_of
ARRAYS = {("numpy", name) for name in ("_reconstruct", "ndarray", "dtype", "_frombuffer")} | {("_codecs", "encode")}


def cifar100(root: str, *, md5: str | None, images: Count | None) -> Images:
    """CIFAR100: 50,000 training and 10,000 test images of 32 px. Classes are in alphabetical order, as in the archive."""
    folder = Path(root) / FOLDER
    if not folder.is_dir() and (Path(root) / ARCHIVE).is_file():
        check(Path(root) / ARCHIVE, md5)
        unpack(Path(root) / ARCHIVE, FOLDER)
    for name in ("train", "test", "meta"):
        if not (folder / name).is_file():
            raise UserError(f"CIFAR100 is not there (looked for {folder / name} and {ARCHIVE}); type make data "
                            "DATASET=cifar100, or data.root=DIR for where it is")  # fmt: skip
    names = tuple(name.replace("_", " ") for name in _read(folder / "meta")["fine_label_names"])
    found = Images("cifar100", *_split(folder / "train"), *_split(folder / "test"), names)
    total("cifar100", len(found.train) + len(found.test), images)
    return complete(found, remedy=f"delete {folder} and type make data DATASET=cifar100")


def _split(file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    content = _read(file)
    pixels = np.asarray(content["data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
    return torch.from_numpy(pixels.transpose(0, 2, 1, 3).copy()), torch.tensor(content["fine_labels"], dtype=torch.long)


class _Plain(pickle.Unpickler):
    """Loads arrays, lists and strings, and refuses any pickle that could run code."""

    def find_class(self, module: str, name: str) -> object:
        if (module.split(".")[0], name) in ARRAYS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a dataset")


def _read(file: Path) -> dict:
    try:
        with file.open("rb") as opened:
            return _Plain(opened, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError):
        raise UserError(f"{file} is damaged; delete its folder and type make data DATASET=cifar100") from None
