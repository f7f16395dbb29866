"""Adapters parallel to the MLPs of a frozen transformer (AdaptFormer, NeurIPS 2022)."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from cil.common.ranges import Count, Fraction, Rate
from cil.common.switches import switches


class Adapter(nn.Module):
    """Computes `scale` · up(relu(down(x))) of the residual stream. Its initial output is zero."""

    def __init__(self, width: int, bottleneck: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for part in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(part)
        self.scale, self.dropout = scale, nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) → (batch, tokens, width)."""
        return self.scale * self.up(self.dropout(self.down(x).relu()))


class Adapters(nn.ModuleList):
    """A set of adapters, one for each block."""

    def __init__(self, depth: int, width: int, *, bottleneck: int, scale: float, dropout: float) -> None:
        super().__init__(Adapter(width, bottleneck, scale, dropout) for _ in range(depth))


@switches
class AdapterSize:
    """The adapters of a set:

    - `bottleneck`: their width. `scale`: factor of their outputs. `dropout`: rate inside an adapter.
    """

    bottleneck: Count
    scale: Rate
    dropout: Fraction

    def made(self, backbone: nn.Module) -> Adapters:
        """Return a new set for all blocks of the backbone."""
        return Adapters(backbone.depth, backbone.width, **vars(self))


def side_by_side(sets: Sequence[Adapters]) -> list[Callable[[Tensor], Tensor]]:
    """Combine several sets: for each block, a function that splits the batch equally and applies one set to each part."""
    return [_combined(list(block)) for block in zip(*sets, strict=True)]


def _combined(adapters: Sequence[Adapter]) -> Callable[[Tensor], Tensor]:
    def stacked(layer: str, part: str) -> Tensor:
        return torch.stack([getattr(getattr(adapter, layer), part) for adapter in adapters])

    (down, up), (b, c) = ([stacked(layer, part) for layer in ("down", "up")] for part in ("weight", "bias"))
    scale = adapters[0].scale

    def add(x: Tensor) -> Tensor:
        rows = x.reshape(len(adapters), -1, x.shape[2])  # (sets, batch of a set · tokens, width)
        hidden = torch.baddbmm(b[:, None], rows, down.mT).relu()
        return (scale * torch.baddbmm(c[:, None], hidden, up.mT)).view(x.shape)

    return add
