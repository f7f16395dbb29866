"""Results of a frozen stage, computed once an image.

Images are encoded in fixed blocks of the data set, whatever is asked for and in whatever order: a matrix product's last
bits depend on its batch, and a resumed run must see the bits that an uninterrupted one saw.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cil.data import LabelledImages

BLOCK = 250  # rows


class FrozenResults:
    """Keeps `stage(images)` for every image it was asked for, a split of a data set at a time."""

    def __init__(self, stage: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self._stage, self._device = stage, device
        self._kept: dict[tuple, dict[int, Tensor]] = {}  # (split, view) → block number → results
        self._splits: dict[int, object] = {}  # kept alive, so that none takes the number of another

    def of(self, images: LabelledImages) -> Tensor:
        """(len(images), …) results in the order of `images`."""
        split = id(images.pixels)
        self._splits[split] = images.pixels
        blocks = self._kept.setdefault((split, images.view), {})
        number, place = images.rows // BLOCK, images.rows % BLOCK
        for missing in sorted(set(number.tolist()) - blocks.keys()):
            pixels = images.pixels[missing * BLOCK : (missing + 1) * BLOCK]
            blocks[missing] = self._stage(images.view(pixels, device=self._device))
        order = sorted(blocks)
        offset = torch.full((order[-1] + 1,), -1)
        offset[order] = torch.tensor([0, *(len(blocks[n]) for n in order[:-1])]).cumsum(0)
        return torch.cat([blocks[n] for n in order])[(offset[number] + place).to(self._device)]
