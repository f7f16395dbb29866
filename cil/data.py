"""Images and the batches made of them. No worker processes: a batch is a few tensor operations.

Small images lie in memory; photographs are decoded once into a store that is mapped into memory (`store.py`).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from cil.augment import View
from cil.store import Photos, Pixels, Size


class Batch(NamedTuple):
    images: Tensor  # (batch, 3, height, width), already on the device, already augmented
    labels: Tensor  # (batch,) in arrival order
    indices: Tensor  # (batch,) position in the dataset it came from


@dataclass(frozen=True)
class Images:
    """What a dataset function returns: two splits, in the dataset's own numbering of classes."""

    name: str  # of the data set, for class orders that are published for it
    train: Tensor | Pixels | Photos  # (n, height, 3, width) uint8; Photos until `decoded`
    train_labels: Tensor  # (n,) int64
    test: Tensor | Pixels | Photos
    test_labels: Tensor
    class_names: tuple[str, ...]

    def decoded(self, needed: Size) -> "Images":
        """With pixels where there were photographs; `needed` is the size at which the transform is exact."""
        split = {key: value.decoded(needed) for key in ("train", "test") if isinstance(value := getattr(self, key), Photos)}
        return replace(self, **split)

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits over every pixel, label and name."""
        sha = hashlib.sha256("\n".join(self.class_names).encode())
        for part in (self.train, self.train_labels, self.test, self.test_labels):
            sha.update(repr(tuple(part.shape)).encode())
            sha.update(part.digest() if isinstance(part, Pixels) else part.contiguous().numpy())
        return sha.hexdigest()[:16]


@dataclass(frozen=True)
class LabelledImages:
    """Some rows of one split, with their labels in arrival order, seen through one view."""

    pixels: Tensor | Pixels  # (n, height, 3, width) uint8: the whole split, shared
    rows: Tensor  # (m,) int64: which of them
    labels: Tensor  # (m,) int64
    view: View

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Tensor) -> "LabelledImages":
        return replace(self, rows=self.rows[positions], labels=self.labels[positions])

    def batch(self, positions: Tensor, device: str | torch.device = "cpu", random: torch.Generator | None = None) -> Batch:
        rows = self.rows[positions]
        return Batch(self.view(self.pixels[rows], random, device), self.labels[positions].to(device), rows.to(device))

    def batches(self, size: int, device: str | torch.device = "cpu") -> Iterator[Batch]:
        """All of it once, in order; for views without chance. Training draws its own order in the trainer."""
        for start in range(0, len(self), size):
            yield self.batch(torch.arange(start, min(start + size, len(self))), device)


def join(parts: Sequence[LabelledImages]) -> LabelledImages:
    """Several selections of one split as one; the view is that of the first."""
    first = parts[0]
    if any(part.pixels is not first.pixels for part in parts):
        raise ValueError("join() takes selections of one split; these come from several")
    rows, labels = torch.cat([part.rows for part in parts]), torch.cat([part.labels for part in parts])
    return replace(first, rows=rows, labels=labels)
