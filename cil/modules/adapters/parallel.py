"""Adapters beside the MLPs of a frozen transformer (AdaptFormer, NeurIPS 2022), and several sets of them at once."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Adapter(nn.Module):
    """`scale` · up(relu(down(x))) of the residual stream. It adds nothing until it has learned."""

    def __init__(self, width: int, bottleneck: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for part in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(part)
        self.scale, self.dropout = scale, nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) → the same"""
        return self.scale * self.up(self.dropout(self.down(x).relu()))


class Adapters(nn.ModuleList):
    """A set: one a block."""

    def __init__(self, depth: int, width: int, *, bottleneck: int, scale: float, dropout: float) -> None:
        super().__init__(Adapter(width, bottleneck, scale, dropout) for _ in range(depth))


def side_by_side(sets: Sequence[Adapters]) -> list[Callable[[Tensor], Tensor]]:
    """For each block all sets as one: of a batch in as many equal parts as there are sets, each part goes through its own."""
    return [_beside(list(block)) for block in zip(*sets, strict=True)]


def _beside(adapters: Sequence[Adapter]) -> Callable[[Tensor], Tensor]:
    def stacked(layer: str, part: str) -> Tensor:
        return torch.stack([getattr(getattr(adapter, layer), part) for adapter in adapters])

    (down, up), (b, c) = ([stacked(layer, part) for layer in ("down", "up")] for part in ("weight", "bias"))
    scale = adapters[0].scale

    def add(x: Tensor) -> Tensor:
        rows = x.reshape(len(adapters), -1, x.shape[2])  # (sets, batch of a set · tokens, width)
        hidden = torch.baddbmm(b[:, None], rows, down.mT).relu()
        return (scale * torch.baddbmm(c[:, None], hidden, up.mT)).view(x.shape)

    return add
