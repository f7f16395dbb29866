"""Fashion-MNIST: 70,000 grey pictures of clothes, 28 px; also in Debian's package dataset-fashion-mnist."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import torch

from cil.common.errors import UserError
from cil.data.datasets.places import CLOTHES, KNOWN
from cil.data.images import Images

NAMES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
PLACES = KNOWN["fashion_mnist"].any_of


def fashion_mnist(root: str, *, sha256: dict[str, str | None]) -> Images:
    """Fashion-MNIST converted to RGB, from its files (gzipped or not) in the data root or the folder of Debian's package."""
    folder = next((Path(root) / place for place in PLACES if _file(Path(root) / place, CLOTHES[0])), None)
    if folder is None:
        raise UserError(f"Fashion-MNIST is not there (looked for {CLOTHES[0]}.gz in {Path(root) / PLACES[0]} and {PLACES[2]}); "
                        "type make data DATASET=fashion_mnist, or apt-get install dataset-fashion-mnist")  # fmt: skip
    train, train_labels, test, test_labels = (_read(folder, name, sha256[name]) for name in CLOTHES)
    return Images("fashion_mnist", _colour(train), train_labels.long(), _colour(test), test_labels.long(), NAMES)


def _file(folder: Path, name: str) -> Path | None:
    return next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)


def _read(folder: Path, name: str, sha256: str | None) -> torch.Tensor:
    """Read an IDX file: two zero bytes, type, number of dimensions, their big-endian sizes, data. The digest is of all that."""
    file = _file(folder, name)
    try:
        content = b"" if file is None else gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        shape = np.frombuffer(content, ">i4", count=content[3], offset=4).tolist()
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError):
        raise UserError(f"{file or folder / name} is absent or damaged; type make data DATASET=fashion_mnist") from None
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise UserError(f"{file} has sha256 {found[:12]}…, wanted is {sha256[:12]}…; fetch it again, or type "
                        f"dataset.sha256.{name}={found}")  # fmt: skip
    return torch.from_numpy(values.copy())


def _colour(grey: torch.Tensor) -> torch.Tensor:
    return grey[:, :, None, :].expand(-1, -1, 3, -1).contiguous()
