"""What a frozen encoder gave for the images of a split, kept on disk: the next method, seed or setting encodes nothing.

data/features/<key>/
    made.json           which encoder and which view the key stands for
    00042.safetensors   the results of one block of rows; carries its own checksum
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

REVISION = 1  # one more whenever an encoder of this project, or a view, gives other numbers for the same settings
LIBRARIES = ("open_clip_torch", "timm")


class Shelf:
    """All that one encoder gave, by split and view."""

    def __init__(self, root: Path, encoder: dict) -> None:
        """`encoder`: what decides its results, in plain words and numbers."""
        self._root = root
        self._encoder = encoder | {"revision": REVISION, "libraries": {name: version(name) for name in LIBRARIES}}

    def place(self, pixels: Pictures, view: View, rows: int) -> "Place":
        """`rows`: of a block."""
        shown = hashlib.sha256(repr(tuple(pixels.shape)).encode())
        shown.update(content(pixels))
        images = {"digest": shown.hexdigest()[:16], "count": len(pixels), "rows": rows}
        made = {"encoder": self._encoder, "view": view.words(), "images": images}
        key = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]
        with usable(self._root):
            return Place(self._root / key, made)


class Place:
    """One split through one view. Blocks are whole or absent; of jobs that want the same one, one makes it."""

    def __init__(self, folder: Path, made: dict) -> None:
        self.folder, self._about = folder, json.dumps(made, sort_keys=True)
        if not (folder / "made.json").exists():
            write_json(folder / "made.json", made)

    def block(self, number: int, make: Callable[[], Tensor]) -> Tensor:
        file = self.folder / f"{number:05d}.safetensors"
        with usable(self.folder.parent), nullcontext() if file.exists() else self._lock():  # a full shelf may be read-only
            return keep_or_make(file, lambda: {"results": make().cpu()}, self._about)["results"]

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.folder / "lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in self.folder.glob(".*.safetensors.*.partial"):  # of a killed process
                leftover.unlink(missing_ok=True)
            yield


@contextmanager
def usable(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"features cannot be kept in {root} ({why}); type data.features=DIR for another folder, or "
                        "data.features=null to keep none") from error  # fmt: skip
