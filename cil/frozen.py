"""Results of a frozen stage, computed once an image.

Images are encoded in fixed blocks of the data set, whatever is asked for and in whatever order: a matrix product's last
bits depend on its batch, and a resumed run must see the bits that an uninterrupted one saw.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from cil.augment import View
from cil.data import LabelledImages, Pictures

BLOCK = 250  # rows


class Known(NamedTuple):
    """A batch of which the frozen stage's results are known, in the place of images."""

    frozen: Tensor  # (batch, …)
    labels: Tensor  # (batch,) in arrival order


@dataclass
class Kept:
    """Results of one split through one view."""

    pixels: Pictures  # kept alive, so that no other split takes its number
    results: Tensor | None = None  # (images of the split, …)
    blocks: set[int] = field(default_factory=set)  # that are computed


class FrozenResults:
    """Keeps `stage(images)` for every image it was asked for, a split of a data set at a time."""

    def __init__(self, stage: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self._stage, self._device = stage, device
        self._kept: dict[tuple[int, View], Kept] = {}  # by split and view

    def of(self, images: LabelledImages) -> Tensor:
        """(len(images), …) results in the order of `images`, whose view has no chance."""
        return self._of(images.pixels, images.rows, images.view)

    def batch(self, images: LabelledImages, positions: Tensor, random: torch.Generator) -> Known:
        """Of a view whose only chance is the mirror: the same coins as the view itself would throw."""
        rows, view = images.rows[positions], images.view
        results = [self._of(images.pixels, rows, variant) for variant in view.variants]
        found = results[0]
        if len(results) > 1:
            mirrored = view.coins(len(rows), random).to(self._device)
            found = torch.where(mirrored.view(-1, *[1] * (found.dim() - 1)), results[1], found)
        return Known(found, images.labels[positions].to(self._device))

    def _of(self, pixels: Pictures, rows: Tensor, view: View) -> Tensor:
        kept = self._kept.setdefault((id(pixels), view), Kept(pixels))
        for missing in sorted(set((rows // BLOCK).tolist()) - kept.blocks):
            block = slice(missing * BLOCK, (missing + 1) * BLOCK)
            found = self._stage(view(pixels[block], torch.Generator(), self._device))
            if kept.results is None:
                kept.results = found.new_zeros(len(pixels), *found.shape[1:])
            kept.results[block] = found
            kept.blocks.add(missing)
        return kept.results[rows.to(self._device)]
