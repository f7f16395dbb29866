"""Self-attention over a grid of patches: plain, gated between content and position (ConViT), or locality-preserved (LPA).

All three see the same positions and have the same parts, so that a backbone takes one by its name.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relative(side: int) -> Tensor:
    """(patches, patches, 3): of each key seen from each query, columns and rows away and the squared distance."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = torch.stack([column.flatten(), row.flatten()], 1).float()
    away = places - places[:, None]
    return torch.cat([away, away.square().sum(2, keepdim=True)], 2)


def neighbourhood(heads: int) -> Tensor:
    """(⌊√heads⌋², 3): position weights of the heads that each look at one place of a square around the query."""
    side = math.isqrt(heads)
    centre = side // 2 if side % 2 else (side - 1) / 2
    places = [(2 * (across - centre), 2 * (down - centre), -1.0) for across in range(side) for down in range(side)]
    return torch.tensor(places)


class PlainAttention(nn.Module):
    """By content alone. The others change which patches a head looks at (`maps`), and what they begin with (`reset`)."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qk, self.v = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.register_buffer("relative", relative(side), persistent=False)  # follows the module to its device

    def reset(self) -> None:
        """Initial values that are the layer's own, after the network's common ones."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, patches, width) → the same."""
        values = self.v(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        return self.out(self.looked(x, values).transpose(1, 2).flatten(2))

    def looked(self, x: Tensor, values: Tensor) -> Tensor:
        """maps(x) @ values."""
        return self.maps(x) @ values

    def content(self, x: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        """(batch, heads, patches, patches): q·k / √d, times a weight of each head."""
        query, key = self.qk(x).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return (query * (weight / math.sqrt(query.shape[-1]))) @ key.mT

    def maps(self, x: Tensor) -> Tensor:
        """(batch, heads, queries, keys), each query's sum is 1."""
        return self.content(x).softmax(3)


class GatedAttention(PlainAttention):
    """GPSA (d'Ascoli et al. 2021): a gate of each head mixes a map by content with one by position."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__(width, heads, side)
        self.position, self.gate = nn.Linear(3, heads), nn.Parameter(torch.ones(heads))

    def reset(self) -> None:
        nn.init.eye_(self.v.weight)
        nn.init.ones_(self.gate)
        place(self.position.weight)

    def maps(self, x: Tensor) -> Tensor:
        share, by_place = self.shares()
        return (1 - share) * self.content(x).softmax(3) + share * by_place

    def looked(self, x: Tensor, values: Tensor) -> Tensor:
        """The map by position is the same for all images, so that they are looked at together."""
        share, by_place = self.shares()
        return (1 - share) * (self.content(x).softmax(3) @ values) + torch.einsum("hnm,bhmd->bhnd", share * by_place, values)

    def shares(self) -> tuple[Tensor, Tensor]:
        """(heads, 1, 1) and (heads, patches, patches). Both maps sum to 1; ConViT divides their sum by itself once more."""
        return self.gate.sigmoid()[:, None, None], self.position(self.relative).permute(2, 0, 1).softmax(2)


class LocalAttention(PlainAttention):
    """LPA (Zheng et al., ICME 2023): one softmax over position and content, whose weight of each head starts near zero.

    The released layer maps the scores of all heads onto each and keeps the diagonal; this is the same function at 1/heads
    of the cost.
    """

    def __init__(self, width: int, heads: int, side: int, spread: float | None = None) -> None:
        """`spread`: of the initial weights of content; None: of all weights."""
        super().__init__(width, heads, side)
        self.position = nn.Linear(4, heads, bias=False)  # of a head: columns, rows, squared distance, content
        self.spread = spread

    @torch.no_grad()
    def reset(self) -> None:
        nn.init.eye_(self.v.weight)
        place(self.position.weight)
        if self.spread is not None:
            drawn = torch.zeros(self.heads)
            self.position.weight[:, 3] = nn.init.trunc_normal_(drawn, std=self.spread) if self.spread else drawn

    def maps(self, x: Tensor) -> Tensor:
        by_place = F.linear(self.relative, self.position.weight[:, :3]).permute(2, 0, 1)
        return (self.content(x, self.position.weight[:, 3, None, None]) + by_place).softmax(3)


ATTENTIONS = {"plain": PlainAttention, "gated": GatedAttention, "local": LocalAttention}


@torch.no_grad()
def place(weight: Tensor) -> None:
    """Heads of a square of neighbours look at their places; those that are left over keep their initial values."""
    known = neighbourhood(len(weight))
    weight[: len(known), :3] = known.to(weight)


class TaskAttention(nn.Module):
    """Class attention of tokens that see themselves and all patches, but not one another (the TAB's inner layer)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, patches: Tensor) -> Tensor:
        """(batch, tokens, width) and (batch, patches, width) → (batch, tokens, width).

        The patches' keys and values are computed once for all tokens.
        """

        def split(x: Tensor) -> Tensor:
            return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

        query = split(self.q(tokens)) / math.sqrt(tokens.shape[2] // self.heads)
        own = (query * split(self.k(tokens))).sum(3, keepdim=True)
        weights = torch.cat([own, query @ split(self.k(patches)).mT], 3).softmax(3)
        mixed = weights[..., :1] * split(self.v(tokens)) + weights[..., 1:] @ split(self.v(patches))
        return self.out(mixed.transpose(1, 2).flatten(2))


def nonlocality(maps: Tensor, side: int) -> Tensor:
    """(…, queries, keys) → (…): the mean distance in patches at which a query looks."""
    distance = relative(side)[..., 2].sqrt().to(maps)
    return (maps * distance).sum(-1).mean(-1)
