"""One linear head per task. While one is trained, weight decay cannot change the others."""

import torch
from torch import Tensor, nn

from cil.modules.heads.linear import GrowingLinear


class TaskHeads(nn.ModuleList):
    """A list of heads whose logits are concatenated in class order. A slice gives the logits of some tasks."""

    def add(self, width: int, classes: int) -> None:
        self.append(GrowingLinear(width))
        self[-1].grow(classes)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, width) → (batch, classes)."""
        return torch.cat([head(features) for head in self], 1)
