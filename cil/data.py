"""Images in memory and the batches made of them. No worker processes: a batch is a few tensor operations."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cil.augment import View


class Batch(NamedTuple):
    images: Tensor  # (batch, 3, height, width), already on the device, already augmented
    labels: Tensor  # (batch,) in arrival order
    indices: Tensor  # (batch,) position in the dataset it came from


@dataclass(frozen=True)
class Images:
    """What a dataset function returns: decoded pixels of two splits, in the dataset's own numbering of classes."""

    train: Tensor  # (n, height, 3, width) uint8
    train_labels: Tensor  # (n,) int64
    test: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits over every pixel, label and name."""
        sha = hashlib.sha256("\n".join(self.class_names).encode())
        for tensor in (self.train, self.train_labels, self.test, self.test_labels):
            sha.update(repr(tuple(tensor.shape)).encode())
            sha.update(tensor.contiguous().numpy())
        return sha.hexdigest()[:16]


@dataclass(frozen=True)
class LabelledImages:
    """Some rows of one split, with their labels in arrival order, seen through one view."""

    pixels: Tensor  # (n, height, 3, width) uint8: the whole split, shared
    rows: Tensor  # (m,) int64: which of them
    labels: Tensor  # (m,) int64
    view: View

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Tensor) -> "LabelledImages":
        return replace(self, rows=self.rows[positions], labels=self.labels[positions])

    def batch(self, positions: Tensor, device: str | torch.device = "cpu", random: torch.Generator | None = None) -> Batch:
        rows = self.rows[positions]
        return Batch(self.view(self.pixels[rows].to(device), random), self.labels[positions].to(device), rows.to(device))

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


def keep_or_make(file: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors from a cache file, made and kept there when it is absent or torn. The file carries its own checksum."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    from cil.files import replace_file

    def checksum(tensors: dict[str, Tensor]) -> str:
        sha = hashlib.sha256()
        for key in sorted(tensors):
            sha.update(tensors[key].contiguous().numpy())
        return sha.hexdigest()

    if file.exists():
        try:
            with safe_open(file, "pt") as opened:
                kept = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
                if (opened.metadata() or {}).get("sha256") == checksum(kept):
                    return kept
        except (SafetensorError, OSError, ValueError):
            pass  # torn: made again below, never trusted
    made = make()
    with replace_file(file) as temporary:
        save_file(made, temporary, metadata={"sha256": checksum(made)})
    return made
