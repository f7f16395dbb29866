"""Caches the outputs of a frozen encoder, so that each image is encoded once.

Images are always encoded in fixed blocks of the dataset, regardless of which images are requested and in which order. The last
bits of a matrix product depend on its batch, and a resumed run must get the same bits as an uninterrupted one.

If the outputs depend only on the backbone, they are also cached on disk, and a later run on the same dataset split reuses them:

data/features/<key>/
    made.json           the encoder and the transform that the key stands for
    00042.safetensors   the outputs for one block of rows, with a checksum
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cil.common.errors import UserError
from cil.common.files import keep_or_make, write_json
from cil.common.transfer import sent
from cil.data.images import LabelledImages, Pictures, content
from cil.data.transforms.views import View

BLOCK = 250  # rows that are encoded together
REVISION = 1  # increase it when an encoder or a transform changes its output for the same settings
LIBRARIES = ("open_clip_torch", "timm")


class Known(NamedTuple):
    """A batch of outputs of the frozen stage, used in place of a batch of images."""

    frozen: Tensor  # (batch, …)
    labels: Tensor  # (batch,) int64, numbered by arrival
    step: int = 0  # number of the batch within the epoch


# --- on disk ----------------------------------------------------------------------------------------------------------


class Shelf:
    """The cached outputs of one encoder, for any split and transform."""

    def __init__(self, root: Path, encoder: dict) -> None:
        """`encoder`: everything that its outputs depend on, as JSON values."""
        self._root = root
        self._encoder = encoder | {"revision": REVISION, "libraries": {name: version(name) for name in LIBRARIES}}

    def place(self, pixels: Pictures, view: View) -> "Place":
        """Return the cache of a split with a transform."""
        shown = hashlib.sha256(repr(tuple(pixels.shape)).encode())
        shown.update(content(pixels))
        images = {"digest": shown.hexdigest()[:16], "count": len(pixels), "rows": BLOCK}
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


# --- in memory --------------------------------------------------------------------------------------------------------


@dataclass
class Kept:
    """Outputs for one split with one transform."""

    pixels: Pictures  # kept alive, so that no other split gets the same `id`
    place: Place | None  # the cache on disk
    name: str  # the same in every process of a run
    results: Tensor | None = None  # (images of the split, …)
    blocks: set[int] = field(default_factory=set)  # numbers of the blocks that are computed


class FrozenResults:
    """Caches `stage(images)` for every image that was requested, separately for each split and transform."""

    def __init__(self, stage: Callable[[Tensor], Tensor], device: torch.device, shelf: Shelf | None = None) -> None:
        self._stage, self._device, self._shelf = stage, device, shelf
        self._kept: dict[tuple[int, str], Kept] = {}  # by `id` of the split and the words of the transform
        self.splits: dict[int, str] = {}  # names of splits by their `id`
        # one per run: called for each block that is encoded, with (name, block, number of images encoded)
        self.notes: list[Callable[[str, int, int], None]] = []
        self.encoding, self.passes = False, 0  # whether a block is being encoded; images passed through the backbone for it
        # digests of the blocks on disk that this run used, also in earlier processes, by folder and number
        self.used: dict[str, dict[int, str]] = {}

    def of(self, images: LabelledImages) -> Tensor:
        """Return the outputs (len(images), …) in the order of `images`, whose transform is deterministic."""
        return self._of(images.pixels, images.rows, images.view)

    def batch(self, images: LabelledImages, positions: Tensor, random: torch.Generator, step: int) -> Known:
        """Return the outputs for a transform that is random only in its flip, with the same flips as the transform draws."""
        rows, view = images.rows[positions], images.view
        results = [self._of(images.pixels, rows, variant) for variant in view.variants]
        found = results[0]
        if len(results) > 1:
            mirrored = sent(view.coins(len(rows), random), self._device)
            found = torch.where(mirrored.view(-1, *[1] * (found.dim() - 1)), results[1], found)
        return Known(found, sent(images.labels[positions], self._device), step)

    def _of(self, pixels: Pictures, rows: Tensor, view: View) -> Tensor:
        key = id(pixels), view.words()
        if key not in self._kept:
            place = self._shelf.place(pixels, view) if self._shelf else None
            name = place.folder.name if place else f"{self.splits.get(id(pixels), 'other')}, {view.words()}"
            self._kept[key] = Kept(pixels, place, name)
        kept = self._kept[key]
        with torch.inference_mode(False), torch.no_grad():  # outputs computed in an evaluation may be used for training
            for missing in sorted(set((rows // BLOCK).tolist()) - kept.blocks):
                self._fill(kept, view, missing)
        assert kept.results is not None, "filled above"
        return kept.results[sent(rows, self._device)]

    def _fill(self, kept: Kept, view: View, number: int) -> None:
        block = slice(number * BLOCK, (number + 1) * BLOCK)

        def make() -> Tensor:
            self.encoding, self.passes = True, 0
            try:
                results = self._stage(view(kept.pixels[block], torch.Generator(), self._device))
            finally:
                self.encoding = False
            for place, note in enumerate(self.notes):  # if runs share these outputs, the first has encoded them
                note(kept.name, number, 0 if place else self.passes)
            return results

        found = kept.place.block(number, make).to(self._device) if kept.place else make()
        if kept.place:
            digest = hashlib.sha256(found.cpu().contiguous().numpy()).hexdigest()[:16]
            self.used.setdefault(kept.name, {})[number] = digest
        if kept.results is None:
            kept.results = found.new_zeros(len(kept.pixels), *found.shape[1:])
        kept.results[block] = found
        kept.blocks.add(number)

    def digests(self) -> dict[str, str]:
        """Hashes of the cached outputs that the run used, by folder. They may have been computed on another machine."""
        texts = {name: "".join(blocks[n] for n in sorted(blocks)) for name, blocks in sorted(self.used.items())}
        return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}
