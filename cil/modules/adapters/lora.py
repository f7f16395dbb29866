"""Low-rank changes of the attention weights of a frozen transformer (LoRA, ICLR 2022)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.modules.heads.cosine import exact

LINEARS = ("query", "key", "value", "projection")  # of an attention layer


class Change(NamedTuple):
    """A change of the weight of a linear layer: `matrix` is added to it, and `up` · `down` is computed beside it."""

    down: Tensor | None = None  # (rank, width)
    up: Tensor | None = None  # (width, rank)
    matrix: Tensor | None = None  # (width, width): merged factors


Changes = Mapping[str, Change]  # of the attention of one block, by some of LINEARS


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, change: Change) -> Tensor:
    """Apply a linear layer whose weight is changed."""
    found = F.linear(x, weight if change.matrix is None else weight + change.matrix, bias)
    if change.down is None or change.up is None:
        return found
    return found + F.linear(F.linear(x, change.down), change.up)


class LoRA(nn.Module):
    """Low-rank factors for some of LINEARS in each block.

    `up` starts at zero, so that nothing is changed at first, and `down` as the weight of a new linear layer.
    """

    def __init__(self, depth: int, width: int, linears: Sequence[str], rank: int) -> None:
        super().__init__()
        self.linears = tuple(linears)
        self.down = nn.Parameter(torch.empty(depth, len(linears), rank, width).uniform_(-(width**-0.5), width**-0.5))
        self.up = nn.Parameter(torch.zeros(depth, len(linears), width, rank))

    def changes(self, matrix: Tensor | None = None) -> list[Changes]:
        """Return the changes of each block. `matrix`: merged earlier factors, (depth, linears, width, width)."""
        return spread(self.linears, self.down, self.up, matrix)

    def merged(self) -> Tensor:
        """Return up · down, (depth, linears, width, width)."""
        with exact(self.up):
            return self.up @ self.down


def spread(
    linears: Sequence[str], down: Tensor | None = None, up: Tensor | None = None, matrix: Tensor | None = None
) -> list[Changes]:
    """Turn tensors over blocks and linear layers, (depth, linears, …) each, into the changes of each block."""
    depth = next(len(each) for each in (down, up, matrix) if each is not None)
    blocks = [[[None] * len(linears)] * depth if each is None else [*each] for each in (down, up, matrix)]
    return [{name: Change(*own) for name, *own in zip(linears, *block)} for block in zip(*blocks)]
