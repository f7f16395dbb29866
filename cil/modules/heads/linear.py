"""Linear classifiers over classes that arrive in tasks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.modules.heads.cosine import scores


class GrowingLinear(nn.Module):
    """A linear layer over the classes seen; new rows are drawn from a normal with std 0.02, new biases are zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, width))
        self.bias = nn.Parameter(torch.empty(0))

    def grow(self, classes: int) -> None:
        """Have `classes` rows; those that exist keep their values."""
        new = classes - len(self.weight)
        rows = torch.randn(new, self.weight.shape[1]).mul_(0.02).to(self.weight.device)
        self.weight = nn.Parameter(torch.cat([self.weight.data, rows]))
        self.bias = nn.Parameter(torch.cat([self.bias.data, self.bias.new_zeros(new)]))

    def forward(self, features: Tensor, classes: slice = slice(None)) -> Tensor:
        """(batch, width) → (batch, classes) logits; of the others nothing is computed and nothing learned."""
        return F.linear(features, self.weight[classes], self.bias[classes])


class CosineHead(nn.Module):
    """A scale that learns, from 1 on, times the cosine between a feature and the row of a class."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width).uniform_(-(width**-0.5), width**-0.5))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """(batch, width) → (batch, classes)"""
        return scores(self.scale, F.normalize(features.float(), dim=1), F.normalize(self.weight, dim=1))
