"""A pool of prompt components; each image gets its own weighted sum of them (CODA-Prompt: Smith et al., CVPR 2023)."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.modules.heads.cosine import exact
from cil.modules.statistics.orthogonal import crooked, gram_schmidt

TINY = 1e-24  # the least squared norm


class Components(nn.Module):
    """Components for several blocks. Each has a prompt, a key and an attention vector in each block.

    The components of each task are separate parameters. Older ones stay fixed because no phase trains them.
    """

    def __init__(self, blocks: int, length: int, width: int) -> None:
        super().__init__()
        self.blocks, self.shapes = blocks, ((length, width), (width,), (width,))
        self.prompts, self.keys, self.attention = (nn.ParameterList() for _ in range(3))  # of (blocks, components, …)

    @property
    def kinds(self) -> tuple[nn.ParameterList, ...]:
        return self.prompts, self.keys, self.attention

    def grow(self, count: int) -> None:
        """Add `count` components to each block, orthogonal to the existing ones."""
        for kind, shape in zip(self.kinds, self.shapes):
            drawn = torch.randn(self.blocks, count, *shape)
            old = torch.cat([drawn[:, :0], *(each.data.cpu() for each in kind)], 1)
            kind.append(nn.Parameter(torch.stack([gram_schmidt(*pair) for pair in zip(drawn, old)])))

    def newest(self) -> list[nn.Parameter]:
        return [kind[-1] for kind in self.kinds]

    def weights(self, queries: Tensor) -> Tensor:
        """Return the cosine of query ∘ attention vector and key: (batch, width) → (batch, blocks, components).

        Computed from two matrix products, so that no (batch, components, width) tensor is needed.
        """
        attention, keys = (torch.cat([*kind], 1).flatten(0, 1) for kind in (self.attention, self.keys))
        with exact(queries):
            queries = queries.float()
            lengths = (queries.square() @ attention.square().T).clamp_min(TINY).sqrt()
            return (queries @ (attention * F.normalize(keys, dim=1)).T / lengths).unflatten(1, (self.blocks, -1))

    def forward(self, queries: Tensor) -> Tensor:
        """Return the weighted sum of the prompts of each block: (batch, width) → (blocks, batch, length, width)."""
        with exact(queries):
            return torch.einsum("bnm,nmlw->nblw", self.weights(queries), torch.cat([*self.prompts], 1))

    def crooked(self) -> Tensor:
        """Return the orthogonality loss, summed over blocks and over prompts, keys and attention vectors."""
        with exact(self.keys[0]):
            return torch.stack([crooked(rows) for rows in self._each()]).sum()

    def _each(self) -> Iterator[Tensor]:
        for kind in self.kinds:
            yield from torch.cat([*kind], 1)
