"""Images and the batches made of them. No worker processes: a batch is a few tensor operations.

Small images lie in memory; photographs are decoded once into a store that is mapped into memory (`image_store.py`).
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cil.common.transfer import sent
from cil.data.image_store import Photos, Pixels, Size
from cil.data.transforms.views import View

RESIDENT = 2 << 30  # bytes of a split: CIFAR100 has 154 million, TinyImageNet at 64 px 1.2 billion


class Batch(NamedTuple):
    images: Tensor  # (batch, 3, height, width), already on the device, already augmented
    labels: Tensor  # (batch,) in arrival order, on the device
    indices: Tensor  # (batch,) position in the dataset it came from, on the CPU
    step: int = 0  # of the epoch
    cpu_labels: Tensor | None = None  # the same labels, for bookkeeping that must not wait for the device


class Stacked:
    """Splits of several data sets as one, whatever the sizes of their images."""

    def __init__(self, parts: Sequence["Tensor | Pixels | Photos"]) -> None:
        self.parts = tuple(parts)
        self.starts = torch.tensor([0, *map(len, parts)]).cumsum(0)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        _, heights, _, widths = zip(*(part.shape for part in self.parts))
        return len(self), max(heights), 3, max(widths)

    def __getitem__(self, which: Tensor | slice) -> Tensor | list[np.ndarray]:
        """A tensor where all that is asked for have one size, else a list of (height, width, 3) arrays."""
        rows = torch.arange(len(self))[which] if isinstance(which, slice) else which
        owner = torch.bucketize(rows, self.starts[1:], right=True)
        found = {n: self.parts[n][rows[owner == n] - self.starts[n]] for n in owner.unique().tolist()}
        if len(found) == 1:
            return next(iter(found.values()))
        if all(isinstance(part, Tensor) for part in found.values()) and len({part.shape[1:] for part in found.values()}) == 1:
            order = torch.cat([(owner == n).nonzero()[:, 0] for n in found])
            return torch.cat(list(found.values()))[order.argsort()]
        single = {n: iter(part.permute(0, 1, 3, 2).numpy() if isinstance(part, Tensor) else part) for n, part in found.items()}
        return [next(single[n]) for n in owner.tolist()]

    def decoded(self, needed: Size) -> "Stacked":
        return Stacked([part.decoded(needed) if isinstance(part, Photos) else part for part in self.parts])

    def digest(self) -> bytes:
        return hashlib.sha256(b"".join(hashlib.sha256(content(part)).digest() for part in self.parts)).digest()


class Resident:
    """Pixels of a split that lie on the device as well, so that a batch is gathered there."""

    def __init__(self, pixels: "Tensor | Pixels", device: torch.device) -> None:
        self.pixels = pixels
        self._there = (pixels if isinstance(pixels, Tensor) else pixels[torch.arange(len(pixels))]).to(device)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape)

    def __getitem__(self, which: Tensor | slice) -> Tensor:
        return self._there[which if isinstance(which, slice) else sent(which, self._there.device)]


Pictures = Tensor | Pixels | Stacked | Resident  # indexed by rows


@dataclass(frozen=True)
class Images:
    """What a dataset function returns: two splits, in the dataset's own numbering of classes."""

    name: str  # of the data set, for class orders that are published for it
    train: Pictures | Photos  # (n, height, 3, width) uint8; Photos until `decoded`
    train_labels: Tensor  # (n,) int64
    test: Pictures | Photos
    test_labels: Tensor
    class_names: tuple[str, ...]
    parts: tuple[tuple[str, int], ...] = ()  # names of data sets that are learned one after another, and their classes
    listing: str = ""  # digest of the names, sizes, times and labels of the files, without reading them; "": not from files

    def decoded(self, needed: Size) -> "Images":
        """With pixels where there were photographs; `needed` is the size at which the transform is exact."""
        stored = {key: getattr(self, key) for key in ("train", "test")}
        return replace(self, **{key: s.decoded(needed) for key, s in stored.items() if isinstance(s, Photos | Stacked)})

    def on(self, device: torch.device) -> "Images":
        """With splits of one size on the device too, where it is a GPU and they are small."""
        return replace(self, **{key: resident(getattr(self, key), device) for key in ("train", "test")})

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits over every pixel, label and name."""
        sha = hashlib.sha256("\n".join(self.class_names).encode())
        for part in (self.train, self.train_labels, self.test, self.test_labels):
            sha.update(repr(tuple(part.shape)).encode())
            sha.update(content(part))
        return sha.hexdigest()[:16]


def content(pixels: Pictures) -> bytes | np.ndarray:
    """What a digest is taken of."""
    if isinstance(pixels, Resident):
        return content(pixels.pixels)
    return pixels.contiguous().numpy() if isinstance(pixels, Tensor) else pixels.digest()


def resident(pixels: Pictures, device: torch.device) -> Pictures:
    """On a GPU if they are at most RESIDENT bytes, else as they are."""
    one_size = isinstance(pixels, Tensor) or (isinstance(pixels, Pixels) and pixels.store.uniform)
    if device.type != "cuda" or not one_size or math.prod(pixels.shape) > RESIDENT:
        return pixels
    return Resident(pixels, device)


@dataclass(frozen=True)
class LabelledImages:
    """Some rows of one split, with their labels in arrival order, seen through one view."""

    pixels: Pictures  # (n, height, 3, width) uint8: the whole split, shared
    rows: Tensor  # (m,) int64: which of them
    labels: Tensor  # (m,) int64
    view: View

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Tensor) -> "LabelledImages":
        return replace(self, rows=self.rows[positions], labels=self.labels[positions])

    def batch(
        self, positions: Tensor, device: str | torch.device = "cpu", random: torch.Generator | None = None, step: int = 0
    ) -> Batch:
        rows = self.rows[positions]
        labels = self.labels[positions]
        return Batch(self.view(self.pixels[rows], random, device), sent(labels, device), rows, step, labels)

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
