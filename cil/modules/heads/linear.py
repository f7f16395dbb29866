"""Linear and cosine classifiers for class-incremental learning."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.modules.heads.cosine import exact, scores


class GrowingLinear(nn.Module):
    """A linear layer over the classes seen. New rows are drawn from N(0, 0.02²); new biases are zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, width))
        self.bias = nn.Parameter(torch.empty(0))

    def grow(self, classes: int) -> None:
        """Grow to `classes` rows. Existing rows keep their values."""
        new = classes - len(self.weight)
        rows = torch.randn(new, self.weight.shape[1]).mul_(0.02).to(self.weight.device)
        self.weight = nn.Parameter(torch.cat([self.weight.data, rows]))
        self.bias = nn.Parameter(torch.cat([self.bias.data, self.bias.new_zeros(new)]))

    def forward(self, features: Tensor, classes: slice = slice(None)) -> Tensor:
        """(batch, width) → logits, (batch, classes), of the given `classes` only; the others get no gradient."""
        return F.linear(features, self.weight[classes], self.bias[classes])


class GrowingCosine(nn.Module):
    """Cosines between features and the rows of the classes seen. New rows are drawn from N(0, 0.02²)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, width))

    def grow(self, classes: int) -> None:
        """Grow to `classes` rows. Existing rows keep their values."""
        rows = torch.randn(classes - len(self.weight), self.weight.shape[1]).mul_(0.02).to(self.weight.device)
        self.weight = nn.Parameter(torch.cat([self.weight.data, rows]))

    def forward(self, features: Tensor, classes: slice = slice(None)) -> Tensor:
        """(…, width) → (…, classes), of the given `classes` only; the others get no gradient."""
        with exact(features):
            return F.normalize(features.float(), dim=-1) @ F.normalize(self.weight[classes].float(), dim=1).T


class CosineHead(nn.Module):
    """Scaled cosine between features and the row of each class. The scale is learned and starts at 1."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width).uniform_(-(width**-0.5), width**-0.5))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """(batch, width) → (batch, classes)."""
        return scores(self.scale, F.normalize(features.float(), dim=1), F.normalize(self.weight, dim=1))
