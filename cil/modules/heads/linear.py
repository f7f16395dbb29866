"""Linear and cosine classifiers for class-incremental learning."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.modules.heads.cosine import exact, scores


class GrowingHead(nn.Module):
    """The rows of the classes seen. New rows are drawn from N(0, 0.02²). `forward` is (…, width) → (…, classes)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, width))

    def grow(self, classes: int) -> None:
        """Grow to `classes` rows. Existing rows keep their values."""
        rows = torch.randn(classes - len(self.weight), self.weight.shape[1]).mul_(0.02).to(self.weight.device)
        self.weight = nn.Parameter(torch.cat([self.weight.data, rows]))

    def own_loss(self, features: Tensor, labels: Tensor, classes: range) -> Tensor:
        """Return the cross-entropy among these classes only, to which all labels belong."""
        return F.cross_entropy(self(features, slice(classes.start, classes.stop)), labels - classes.start)


class GrowingCosine(GrowingHead):
    """Cosines between features and rows."""

    def forward(self, features: Tensor, classes: slice = slice(None)) -> Tensor:
        """Of the given `classes` only; the others get no gradient."""
        with exact(features):
            return F.normalize(features.float(), dim=-1) @ F.normalize(self.weight[classes].float(), dim=1).T


class GrowingLinear(GrowingHead):
    """A linear layer. New biases are zero."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.bias = nn.Parameter(torch.empty(0))

    def grow(self, classes: int) -> None:
        super().grow(classes)
        self.bias = nn.Parameter(torch.cat([self.bias.data, self.bias.new_zeros(classes - len(self.bias))]))

    def forward(self, features: Tensor, classes: slice = slice(None)) -> Tensor:
        """Of the given `classes` only; the others get no gradient."""
        return F.linear(features, self.weight[classes], self.bias[classes])


class CosineHead(nn.Module):
    """Scaled cosine between features and the row of each class. The scale is learned and starts at 1."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width).uniform_(-(width**-0.5), width**-0.5))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """(batch, width) → (batch, classes)."""
        return scores(self.scale, F.normalize(features.float(), dim=1), F.normalize(self.weight, dim=1))


class TaskHeads(nn.ModuleList):
    """One linear head per task, whose logits are concatenated in class order. A slice gives the logits of some tasks.

    While one is trained, weight decay cannot change the others.
    """

    def add(self, width: int, classes: int) -> None:
        self.append(GrowingLinear(width))
        self[-1].grow(classes)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, width) → (batch, classes)."""
        return torch.cat([head(features) for head in self], 1)
