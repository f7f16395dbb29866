"""Balances old and new classes by the norm of their weights or of their logits."""

from collections.abc import Sequence

import torch
from torch import Tensor

SHARPNESS = 0.1  # the temperature by which SLCA divides normalised logits
TINY = 1e-7


def as_long_as_before(weight: Tensor, old: int) -> Tensor:
    """Scale the new rows of `weight`, (classes, width), to the mean norm of the old (WA; DER's second stage in PyCIL)."""
    if not 0 < old < len(weight):
        return weight
    norms = weight.norm(dim=1)
    return torch.cat([weight[:old], weight[old:] * (norms[:old].mean() / norms[old:].mean())])


def normalised(logits: Tensor, tasks: Sequence[range]) -> Tensor:
    """Divide logits, (batch, classes), by the mean over tasks of the norm of a task's logits (SLCA's head alignment)."""
    norms = torch.stack([logits[:, task.start : task.stop].norm(dim=1) for task in tasks], 1)
    return logits / (norms.mean(1, keepdim=True) + TINY) / SHARPNESS


def drifted(mean: Tensor, learned: int, now: int) -> Tensor:
    """Return the mean at which SLCA samples a class of task `learned` in task `now`: mean · (0.9 + 0.1 · learned / now).

    Tasks count from 1.
    """
    return mean * (0.9 + 0.1 * learned / now)
