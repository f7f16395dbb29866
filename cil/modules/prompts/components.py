"""A pool of components of which every image gets its own mixture as prefixes (CODA-Prompt: Smith et al., CVPR 2023)."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.modules.heads.cosine import exact
from cil.modules.statistics.orthogonal import crooked, gram_schmidt

TINY = 1e-24  # of a squared length


class Components(nn.Module):
    """In each of several blocks a component has a prompt, a key and an attention vector.

    Those of a task are parameters of their own: older ones stay as they are because no phase names them.
    """

    def __init__(self, blocks: int, length: int, width: int) -> None:
        super().__init__()
        self.blocks, self.shapes = blocks, ((length, width), (width,), (width,))
        self.prompts, self.keys, self.attention = (nn.ParameterList() for _ in range(3))  # of (blocks, components, …)

    @property
    def kinds(self) -> tuple[nn.ParameterList, ...]:
        return self.prompts, self.keys, self.attention

    def grow(self, count: int) -> None:
        """`count` more in each block, at right angles to those that are there."""
        for kind, shape in zip(self.kinds, self.shapes):
            drawn = torch.randn(self.blocks, count, *shape)
            old = torch.cat([drawn[:, :0], *(each.data.cpu() for each in kind)], 1)
            kind.append(nn.Parameter(torch.stack([gram_schmidt(*pair) for pair in zip(drawn, old)])))

    def newest(self) -> list[nn.Parameter]:
        return [kind[-1] for kind in self.kinds]

    def weights(self, queries: Tensor) -> Tensor:
        """(batch, width) → (batch, blocks, components): cosine of query ∘ attention vector and key.

        A product with (attention ∘ unit key) and one of the squares: nothing of batch · components · width is made.
        """
        attention, keys = (torch.cat([*kind], 1).flatten(0, 1) for kind in (self.attention, self.keys))
        with exact(queries):
            queries = queries.float()
            lengths = (queries.square() @ attention.square().T).clamp_min(TINY).sqrt()
            return (queries @ (attention * F.normalize(keys, dim=1)).T / lengths).unflatten(1, (self.blocks, -1))

    def forward(self, queries: Tensor) -> Tensor:
        """(batch, width) → (blocks, batch, length, width): of each block the weighted sum of its prompts."""
        with exact(queries):
            return torch.einsum("bnm,nmlw->nblw", self.weights(queries), torch.cat([*self.prompts], 1))

    def crooked(self) -> Tensor:
        """How far they are from right angles and length 1, summed over blocks and the three kinds."""
        with exact(self.keys[0]):
            return torch.stack([crooked(rows) for rows in self._each()]).sum()

    def _each(self) -> Iterator[Tensor]:
        for kind in self.kinds:
            yield from torch.cat([*kind], 1)
