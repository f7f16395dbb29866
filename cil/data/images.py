"""Datasets in memory and the batches made from them. There are no worker processes: a batch is a few tensor operations.

Small images are kept in memory. Photographs are decoded once into a memory-mapped store (`image_store.py`).
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from cil.common.transfer import sent
from cil.data.image_store import Photos, Pixels, Size
from cil.data.transforms.views import View

RESIDENT = 2 << 30  # largest split in bytes: CIFAR100 has 154 million, TinyImageNet at 64 px 1.2 billion


class Batch(NamedTuple):
    """Transformed images and their labels, as the training loop and the methods receive them."""

    images: Tensor  # (batch, 3, height, width) float32, augmented, on the device
    labels: Tensor  # (batch,) int64, numbered by arrival, on the device
    indices: Tensor  # (batch,) rows of the split that the images come from, on the CPU
    step: int = 0  # number of the batch within the epoch
    cpu_labels: Tensor | None = None  # a copy of `labels` on the CPU, for bookkeeping without waiting for the device
    frozen: Tensor | None = None  # what the method's frozen stage gives for the images, if that is already computed


class Stacked:
    """Concatenates splits of several datasets, also if their images differ in size."""

    def __init__(self, parts: Sequence["Tensor | Pixels | Photos"]) -> None:
        self.parts = tuple(parts)
        self.starts = torch.tensor([0, *map(len, parts)]).cumsum(0)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        parts = cast("tuple[Tensor | Pixels, ...]", self.parts)  # Photos have no shape until they are decoded
        _, heights, _, widths = zip(*(part.shape for part in parts))
        return len(self), max(heights), 3, max(widths)

    def __getitem__(self, which: Tensor | slice) -> Tensor | list[np.ndarray]:
        """Return a tensor (n, height, 3, width) if the images have one size, else a list of (height, width, 3) arrays."""
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

    def decoded(self, needed: Size, folder: str | None = None) -> "Stacked":
        return Stacked([part.decoded(needed, folder) if isinstance(part, Photos) else part for part in self.parts])

    def alone(self, rows: Tensor) -> "Stacked":
        owner = torch.bucketize(rows, self.starts[1:], right=True)
        return Stacked([alone(part, rows[owner == n] - self.starts[n]) for n, part in enumerate(self.parts)])

    def digest(self) -> bytes:
        return hashlib.sha256(b"".join(hashlib.sha256(content(part)).digest() for part in self.parts)).digest()


class Resident:
    """Pixels of a split with a copy on the device, so that batches are gathered there."""

    def __init__(self, pixels: "Tensor | Pixels", device: torch.device) -> None:
        self.pixels = pixels
        whole = pixels if isinstance(pixels, Tensor) else pixels[torch.arange(len(pixels))]
        assert isinstance(whole, Tensor), "images of one size"
        self._there = whole.to(device)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape)

    def __getitem__(self, which: Tensor | slice) -> Tensor:
        return self._there[which if isinstance(which, slice) else sent(which, self._there.device)]


Pictures: TypeAlias = Tensor | Pixels | Stacked | Resident  # the pixels of a split, indexed by rows


@dataclass(frozen=True)
class Images:
    """The two splits of a dataset, with labels in the dataset's own numbering. Every dataset function returns one."""

    name: str  # of the dataset; selects the class orders published for it
    train: Pictures | Photos  # (n, height, 3, width) uint8; Photos before `decoded` is called
    train_labels: Tensor  # (n,) int64
    test: Pictures | Photos
    test_labels: Tensor
    class_names: tuple[str, ...]
    parts: tuple[tuple[str, int], ...] = ()  # names and numbers of classes of datasets that are learned in turn
    listing: str = ""  # digest of the names, sizes, times and labels of its files; "": it does not consist of files
    sizes: str = ""  # digest of the sizes and labels alone, which a copy of the files shares; "": not known

    def decoded(self, needed: Size, folder: str | None = None) -> "Images":
        """Return the dataset with decoded photographs. `needed` is the size at which the transform is exact.

        `folder`: where the decoded photographs are kept; None: below the data root.
        """
        stored = self.train, self.test
        train, test = (s.decoded(needed, folder) if isinstance(s, Photos | Stacked) else s for s in stored)
        return replace(self, train=train, test=test)

    def stores(self, folder: str | None) -> set[Path]:
        """Return the folders that keep the decoded photographs; `folder` as in `decoded`."""
        splits = [part for s in (self.train, self.test) for part in (s.parts if isinstance(s, Stacked) else (s,))]
        return {part.place(folder) for part in splits if isinstance(part, Photos)}

    def on(self, device: torch.device) -> "Images":
        """Return the dataset with copies of small splits of one image size on the device, if it is a GPU."""
        return replace(self, train=resident(self.train, device), test=resident(self.test, device))

    @property
    def counts(self) -> dict[str, int]:
        return {"classes": len(self.class_names), "training": len(self.train_labels), "test": len(self.test_labels)}

    @cached_property
    def digest(self) -> str:
        """Hash of all pixels, labels and class names, as 16 hex digits."""
        sha = hashlib.sha256("\n".join(self.class_names).encode())
        for part in (self.train, self.train_labels, self.test, self.test_labels):
            assert not isinstance(part, Photos), "decoded"
            sha.update(repr(tuple(part.shape)).encode())
            sha.update(content(part))
        return sha.hexdigest()[:16]


def alone(pixels: Any, rows: Tensor) -> Any:
    """Return these images of a split as a split of their own, with no others to be decoded. `rows` is sorted."""
    return pixels[rows] if isinstance(pixels, Tensor) else pixels.alone(rows)


def content(pixels: Pictures) -> bytes | memoryview:
    """Return the bytes that stand for `pixels` in a hash."""
    if isinstance(pixels, Resident):
        return content(pixels.pixels)
    return pixels.contiguous().numpy().data if isinstance(pixels, Tensor) else pixels.digest()


def resident(pixels: Pictures | Photos, device: torch.device) -> Pictures | Photos:
    """Copy pixels to a GPU if they have one image size and at most RESIDENT bytes. Otherwise return them unchanged."""
    if device.type == "cuda" and (isinstance(pixels, Tensor) or (isinstance(pixels, Pixels) and pixels.store.uniform)):
        return Resident(pixels, device) if math.prod(pixels.shape) <= RESIDENT else pixels
    return pixels


@dataclass(frozen=True)
class LabelledImages:
    """A selection of images of one split, with labels numbered by arrival and a transform."""

    pixels: Pictures  # (n, height, 3, width) uint8: the whole split, shared
    rows: Tensor  # (m,) int64: the selected rows of `pixels`
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
        """Yield all images once, in order. For deterministic transforms; the trainer draws its own order."""
        for start in range(0, len(self), size):
            yield self.batch(torch.arange(start, min(start + size, len(self))), device)


def join(parts: Sequence[LabelledImages]) -> LabelledImages:
    """Concatenate selections of one split. The transform is that of the first."""
    first = parts[0]
    if any(part.pixels is not first.pixels for part in parts):
        raise ValueError("join() takes selections of one split; these come from several")
    rows, labels = torch.cat([part.rows for part in parts]), torch.cat([part.labels for part in parts])
    return replace(first, rows=rows, labels=labels)
