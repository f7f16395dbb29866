"""Distillation: frozen copies of networks as teachers, and losses.

The teacher's logits cover the first (old) classes of the student.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenCopy(nn.Module):
    """Copies the given modules, which images pass in turn, without gradients and always in evaluation mode."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, copy.deepcopy(part))
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenCopy":
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images)

    def answer(self, images: Tensor) -> Tensor:
        for part in self.children():
            images = part(images)
        return images


def softened(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the mean cross-entropy of softmaxes at a temperature T, without the factor T² (LwF, PyCIL's iCaRL, BiC)."""
    own = (logits[:, : teacher.shape[1]] / temperature).log_softmax(1)
    return -((teacher / temperature).softmax(1) * own).sum(1).mean()


def sigmoids(logits: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """Return the binary cross-entropy, summed over classes; the targets of old classes are the teacher's sigmoids (iCaRL)."""
    known = teacher.shape[1]
    wanted = targets.clone()
    wanted[:, :known] = teacher.sigmoid()
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1).mean()
