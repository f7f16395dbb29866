"""Self-attention over a grid of patches: plain, gated between content and position (ConViT), or locality-preserved (LPA).

All three have the same interface, so that a backbone selects one by its name.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relative(side: int) -> Tensor:
    """Return the offset of each key from each query in columns and rows, and its square: (patches, patches, 3)."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = torch.stack([column.flatten(), row.flatten()], 1).float()
    away = places - places[:, None]
    return torch.cat([away, away.square().sum(2, keepdim=True)], 2)


class PlainAttention(nn.Module):
    """Self-attention by content alone. Subclasses change the attention maps (`maps`) and initial values (`reset`)."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qk, self.v = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.register_buffer("relative", relative(side), persistent=False)  # a buffer moves to the device with the module

    def reset(self) -> None:
        """Set initial values specific to this layer. The network calls it after its common initialisation."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, patches, width) → (batch, patches, width)."""
        values = self.v(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        return self.out(self.looked(x, values).transpose(1, 2).flatten(2))

    def looked(self, x: Tensor, values: Tensor) -> Tensor:
        """Return maps(x) @ values."""
        return self.maps(x) @ values

    def content(self, x: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        """Return q·k / √d times a weight per head, (batch, heads, patches, patches)."""
        query, key = self.qk(x).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return (query * (weight / math.sqrt(query.shape[-1]))) @ key.mT

    def maps(self, x: Tensor) -> Tensor:
        """Return the attention maps, (batch, heads, queries, keys); they sum to 1 over the keys."""
        return self.content(x).softmax(3)


class GatedAttention(PlainAttention):
    """GPSA (d'Ascoli et al. 2021): a gate per head mixes an attention map by content with one by position."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__(width, heads, side)
        self.position, self.gate = nn.Linear(3, heads), nn.Parameter(torch.ones(heads))

    def reset(self) -> None:
        nn.init.eye_(self.v.weight)
        nn.init.ones_(self.gate)
        place(self.position.weight)

    def maps(self, x: Tensor) -> Tensor:
        gate, by_position = self.shares()
        return (1 - gate) * self.content(x).softmax(3) + gate * by_position

    def looked(self, x: Tensor, values: Tensor) -> Tensor:
        """Return maps(x) @ values. The map by position is the same for all images, so it is not expanded over the batch."""
        gate, by_position = self.shares()
        return (1 - gate) * (self.content(x).softmax(3) @ values) + torch.einsum("hnm,bhmd->bhnd", gate * by_position, values)

    def shares(self) -> tuple[Tensor, Tensor]:
        """Return the gates, (heads, 1, 1), and the maps by position, (heads, patches, patches).

        ConViT normalises the mixed map again; that is not needed, since both maps already sum to 1.
        """
        return self.gate.sigmoid()[:, None, None], self.position(self.relative).permute(2, 0, 1).softmax(2)


class LocalAttention(PlainAttention):
    """LPA (Zheng et al., ICME 2023): one softmax over position and content; the weight of content starts near zero.

    The released layer computes scores for all pairs of heads and keeps the diagonal. This computes the same function at
    1/heads of the cost.
    """

    def __init__(self, width: int, heads: int, side: int, spread: float | None = None) -> None:
        """`spread`: the std of the initial content weights; None: the std of all other weights."""
        super().__init__(width, heads, side)
        self.position = nn.Linear(4, heads, bias=False)  # inputs: columns, rows, squared distance, content
        self.spread = spread

    @torch.no_grad()
    def reset(self) -> None:
        nn.init.eye_(self.v.weight)
        place(self.position.weight)
        if self.spread is not None:
            drawn = torch.zeros(self.heads)
            self.position.weight[:, 3] = nn.init.trunc_normal_(drawn, std=self.spread) if self.spread else drawn

    def maps(self, x: Tensor) -> Tensor:
        by_position = F.linear(self.relative, self.position.weight[:, :3]).permute(2, 0, 1)
        return (self.content(x, self.position.weight[:, 3, None, None]) + by_position).softmax(3)


ATTENTIONS = {"plain": PlainAttention, "gated": GatedAttention, "local": LocalAttention}


@torch.no_grad()
def place(weight: Tensor) -> None:
    """Let each of the first ⌊√heads⌋² heads attend to one place of a square around the query; the others keep their weights."""
    side = math.isqrt(len(weight))
    centre = side // 2 if side % 2 else (side - 1) / 2
    places = [(2 * (across - centre), 2 * (down - centre), -1.0) for across in range(side) for down in range(side)]
    weight[: len(places), :3] = torch.tensor(places).to(weight)


class TaskAttention(nn.Module):
    """Class attention: each token attends to itself and all patches, but not to other tokens (the inner layer of the TAB)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, patches: Tensor) -> Tensor:
        """(batch, tokens, width) and (batch, patches, width) → (batch, tokens, width).

        The keys and values of the patches are computed once for all tokens.
        """

        def split(x: Tensor) -> Tensor:
            return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

        query = split(self.q(tokens)) / math.sqrt(tokens.shape[2] // self.heads)
        own = (query * split(self.k(tokens))).sum(3, keepdim=True)
        weights = torch.cat([own, query @ split(self.k(patches)).mT], 3).softmax(3)
        mixed = weights[..., :1] * split(self.v(tokens)) + weights[..., 1:] @ split(self.v(patches))
        return self.out(mixed.transpose(1, 2).flatten(2))


def nonlocality(maps: Tensor, side: int) -> Tensor:
    """Return the mean attention distance in patches: (…, queries, keys) → (…)."""
    distance = relative(side)[..., 2].sqrt().to(maps)
    return (maps * distance).sum(-1).mean(-1)
