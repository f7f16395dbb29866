"""A linear head for each task: one learns while the others keep their values, weight decay included."""

import torch
from torch import Tensor, nn

from cil.modules.heads.linear import GrowingLinear


class TaskHeads(nn.ModuleList):
    """Logits stand in the order of the classes, as in one head over all of them; a slice has those of some tasks."""

    def add(self, width: int, classes: int) -> None:
        self.append(GrowingLinear(width))
        self[-1].grow(classes)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, width) → (batch, classes)."""
        return torch.cat([head(features) for head in self], 1)
