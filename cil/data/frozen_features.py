"""Caches the outputs of a frozen encoder, so that each image is encoded once.

Where the backbone alone decides the outputs, they are also kept on disk for later runs (`feature_cache.py`).

Images are encoded in fixed blocks of the data set, whatever is asked for and in whatever order: a matrix product's last
bits depend on its batch, and a resumed run must see the bits that an uninterrupted one saw.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from cil.common.transfer import sent
from cil.data.feature_cache import Place, Shelf
from cil.data.images import LabelledImages, Pictures
from cil.data.transforms.views import View

BLOCK = 250  # rows that are encoded at a time


class Known(NamedTuple):
    """A batch of which the frozen stage's results are known, in the place of images."""

    frozen: Tensor  # (batch, …)
    labels: Tensor  # (batch,) in arrival order
    step: int = 0  # of the epoch


@dataclass
class Kept:
    """Results of one split through one view."""

    pixels: Pictures  # kept alive, so that no other split takes its number
    place: Place | None  # on disk
    name: str  # the same in every process of a run
    results: Tensor | None = None  # (images of the split, …)
    blocks: set[int] = field(default_factory=set)  # that are computed


class FrozenResults:
    """Keeps `stage(images)` for every image it was asked for, a split of a data set at a time."""

    def __init__(self, stage: Callable[[Tensor], Tensor], device: torch.device, shelf: Shelf | None = None) -> None:
        self._stage, self._device, self._shelf = stage, device, shelf
        self._kept: dict[tuple[int, str], Kept] = {}  # by split and what the view does
        self.splits: dict[int, str] = {}  # names of splits by their `id`
        self.notes: list[Callable[[str, int, int], None]] = []  # of runs: told of each block that is encoded
        self.encoding, self.passes = False, 0  # images through the backbone for the block that is being encoded
        self.used: dict[
            str, dict[int, str]
        ] = {}  # digests of blocks that lie on disk, by their folder, also of earlier processes

    def of(self, images: LabelledImages) -> Tensor:
        """(len(images), …) results in the order of `images`, whose view has no chance."""
        return self._of(images.pixels, images.rows, images.view)

    def batch(self, images: LabelledImages, positions: Tensor, random: torch.Generator, step: int) -> Known:
        """Of a view whose only chance is the mirror: the same coins as the view itself would throw."""
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
            place = self._shelf and self._shelf.place(pixels, view, BLOCK)
            name = place.folder.name if place else f"{self.splits.get(id(pixels), 'other')}, {view.words()}"
            self._kept[key] = Kept(pixels, place, name)
        kept = self._kept[key]
        with torch.inference_mode(False), torch.no_grad():  # a test's results may be trained on
            for missing in sorted(set((rows // BLOCK).tolist()) - kept.blocks):
                self._fill(kept, view, missing)
        return kept.results[sent(rows, self._device)]

    def _fill(self, kept: Kept, view: View, number: int) -> None:
        block = slice(number * BLOCK, (number + 1) * BLOCK)

        def make() -> Tensor:
            self.encoding, self.passes = True, 0
            try:
                results = self._stage(view(kept.pixels[block], torch.Generator(), self._device))
            finally:
                self.encoding = False
            for place, note in enumerate(self.notes):  # of runs that share these results, the first has encoded them
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
        """Of what lies on disk and the run used, by its folder: equal inputs may have been encoded on another machine."""
        texts = {name: "".join(blocks[n] for n in sorted(blocks)) for name, blocks in sorted(self.used.items())}
        return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}
