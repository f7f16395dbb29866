"""Disk cache of frozen-encoder features. A later run on the same dataset split reuses them instead of encoding images again.

data/features/<key>/
    made.json           the encoder and the transform that the key stands for
    00042.safetensors   the outputs for one block of rows, with a checksum
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from cil.common.errors import UserError
from cil.common.files import keep_or_make, write_json
from cil.data.images import Pictures, content
from cil.data.transforms.views import View

REVISION = 1  # increase it when an encoder or a transform changes its output for the same settings
LIBRARIES = ("open_clip_torch", "timm")


class Shelf:
    """The cached outputs of one encoder, for any split and transform."""

    def __init__(self, root: Path, encoder: dict) -> None:
        """`encoder`: everything that its outputs depend on, as JSON values."""
        self._root = root
        self._encoder = encoder | {"revision": REVISION, "libraries": {name: version(name) for name in LIBRARIES}}

    def place(self, pixels: Pictures, view: View, rows: int) -> "Place":
        """Return the cache of a split with a transform, in blocks of `rows` rows."""
        shown = hashlib.sha256(repr(tuple(pixels.shape)).encode())
        shown.update(content(pixels))
        images = {"digest": shown.hexdigest()[:16], "count": len(pixels), "rows": rows}
        made = {"encoder": self._encoder, "view": view.words(), "images": images}
        key = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]
        with usable(self._root):
            return Place(self._root / key, made)


class Place:
    """The cached outputs for one split with one transform. If several jobs need the same block, one computes it."""

    def __init__(self, folder: Path, made: dict) -> None:
        self.folder, self._about = folder, json.dumps(made, sort_keys=True)
        if not (folder / "made.json").exists():
            write_json(folder / "made.json", made)

    def block(self, number: int, make: Callable[[], Tensor]) -> Tensor:
        """Return a block of outputs from disk. If it is not there, call `make` and store the result."""
        file = self.folder / f"{number:05d}.safetensors"
        with usable(self.folder.parent), nullcontext() if file.exists() else self._lock():  # a complete cache may be read-only
            return keep_or_make(file, lambda: {"results": make().cpu()}, self._about)["results"]

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.folder / "lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in self.folder.glob(".*.safetensors.*.partial"):  # left by a killed process
                leftover.unlink(missing_ok=True)
            yield


@contextmanager
def usable(root: Path) -> Iterator[None]:
    """Turn errors of the disk into a UserError that names the setting of the cache folder."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"features cannot be cached in {root} ({why}); type data.features=DIR for another folder, or "
                        "data.features=null for no cache") from error  # fmt: skip
