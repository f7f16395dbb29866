"""Making the classes of all tasks equally loud: by the length of their weights, or by the length of their logits."""

from collections.abc import Sequence

import torch
from torch import Tensor

SHARPNESS = 0.1  # SLCA divides normalised logits by it
TINY = 1e-7


def as_long_as_before(weight: Tensor, old: int) -> Tensor:
    """(classes, width): new rows times the mean length of the old over that of the new (WA; DER's second stage in PyCIL)."""
    if not 0 < old < len(weight):
        return weight
    lengths = weight.norm(dim=1)
    return torch.cat([weight[:old], weight[old:] * (lengths[:old].mean() / lengths[old:].mean())])


def normalised(logits: Tensor, tasks: Sequence[range]) -> Tensor:
    """(batch, classes) over the mean over tasks of the length of their logits (SLCA's alignment of the head)."""
    lengths = torch.stack([logits[:, task.start : task.stop].norm(dim=1) for task in tasks], 1)
    return logits / (lengths.mean(1, keepdim=True) + TINY) / SHARPNESS


def drifted(mean: Tensor, learned: int, now: int) -> Tensor:
    """Where SLCA samples a class: its mean a little longer the later it was learned; tasks count from 1."""
    return mean * (0.9 + 0.1 * learned / now)
