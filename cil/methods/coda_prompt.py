"""CODA-Prompt: builds the prompts of an image as a weighted sum of learned components (Smith et al., CVPR 2023)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import TakesPrompts, require
from cil.common.errors import UserError
from cil.common.ranges import Count, Weight, Whole
from cil.method import Batch, Losses, Method, Phase, Scenario, Task
from cil.modules.heads.cosine import exact
from cil.modules.heads.linear import GrowingLinear
from cil.modules.prompt_pool import Queried
from cil.modules.together import Together

TINY = 1e-24  # the least squared norm


class CodaPrompt(Together, Queried, Method):
    """Weights the components by a query, the class token of the backbone without prompts. Each task adds components and
    freezes the older ones."""

    divisible = True

    def __init__(
        self, backbone: nn.Module, *, components: Count, length: Count, blocks: Sequence[Whole], orthogonality: Weight
    ) -> None:  # fmt: skip
        """`components`: their number in each of the `blocks`, for all tasks together. A task adds a share of them equal to its
        share of all classes. `length`: tokens of a prompt; the first half are keys, the second half values.

        `orthogonality`: weight of the loss that keeps the components orthogonal.
        """
        super().__init__()
        require(backbone, TakesPrompts, "coda_prompt")
        if length % 2:
            raise UserError(f"method.length={length} does not split into keys and values; type method.length={length + 1}")
        if components > backbone.width:
            raise UserError(f"method.components={components} cannot be orthogonal in {backbone.width} dimensions; type "
                            f"method.components={backbone.width} or less")  # fmt: skip
        if not blocks or len(set(blocks)) < len(blocks) or not set(blocks) <= set(range(backbone.depth)):
            raise UserError(f"method.blocks={list(blocks)} must name some of 0…{backbone.depth - 1}, each once; type "
                            "method.blocks=[0,1,2,3,4]")  # fmt: skip
        self.backbone, self.components, self.blocks, self.orthogonality = backbone, components, list(blocks), orthogonality
        self.pool = Components(len(self.blocks), length, backbone.width)
        self.head = GrowingLinear(backbone.width)

    def suits(self, scenario: Scenario) -> None:
        for task in scenario:
            first, stop = self.share_of(task)
            if first == stop:
                raise UserError(f"method.components={self.components} leaves task {task.index + 1} without a component; type "
                                f"method.components={task.total}")  # fmt: skip

    def share_of(self, task: Task) -> tuple[int, int]:
        """Returns the first component of the task and the one after its last, in proportion to its classes."""
        return self.components * task.classes.start // task.total, self.components * task.classes.stop // task.total

    def begin_task(self, task: Task) -> None:
        self.head.grow(len(task.seen))
        first, stop = self.share_of(task)
        self.pool.grow(stop - first)

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("train", task, task.train, [*self.pool.newest(), *self.head.parameters()])]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        tokens = self.backbone.tokens(batch.images)
        features = self.prompted(self.queries(tokens, batch), tokens)
        losses = {"ce": self.head.own_loss(features, batch.labels, phase.task.classes)}
        if self.orthogonality:
            losses["orthogonality"] = self.orthogonality * self.pool.crooked()
        return losses

    def prefixes(self, queries: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """Returns the keys and values of each prompted block, (batch, heads, length / 2, head width) each."""
        mixed = self.pool(queries).unflatten(3, (self.backbone.heads, -1)).transpose(2, 3)
        return {block: pair.chunk(2, 2) for block, pair in zip(self.blocks, mixed)}

    def prompted(self, queries: Tensor, images: Tensor) -> Tensor:
        return self.backbone(images, prefixes=self.prefixes(queries))


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
            return torch.stack([crooked(rows) for kind in self.kinds for rows in torch.cat([*kind], 1)]).sum()


def gram_schmidt(drawn: Tensor, old: Tensor) -> Tensor:
    """Make the `drawn` rows, (new, …), orthonormal and orthogonal to the `old` rows, (old, …).

    Rows of any shape are treated as vectors; there must be at least as many dimensions as rows. Old rows need not be
    orthogonal to each other, since training changes them (the authors' code assumes that they are).
    """
    basis, triangle = torch.linalg.qr(torch.cat([old.flatten(1), drawn.flatten(1)]).T)
    return (basis * triangle.diagonal().sign()).T[len(old) :].reshape(drawn.shape)


def crooked(rows: Tensor) -> Tensor:
    """Return the mean of (M Mᵀ − I)², which is 0 if the rows are orthonormal."""
    flat = rows.flatten(1)
    return (flat @ flat.T - torch.eye(len(flat), dtype=flat.dtype, device=flat.device)).square().mean()
