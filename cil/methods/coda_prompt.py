"""CODA-Prompt: prefixes mixed of components, whose weights an image decides (Smith et al., CVPR 2023)."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import TakesPrompts, require
from cil.common.errors import UserError
from cil.common.ranges import Count, Weight, Whole
from cil.data.images import Batch
from cil.data.scenario import Scenario, Task
from cil.method import Losses, Method, Phase
from cil.modules.heads.linear import GrowingLinear
from cil.modules.prompts.components import Components


class CodaPrompt(Method):
    """The query of an image is the class token of the backbone without prompts; each task adds components, old ones stay."""

    divisible = True

    def __init__(
        self, backbone: nn.Module, *, components: Count, length: Count, blocks: Sequence[Whole], orthogonality: Weight
    ) -> None:  # fmt: skip
        """`components` in all in each of the `blocks`. A task owns the share of them that its classes are of all classes: a
        T-th of them with T equal tasks. The first half of a prompt's `length` are keys, the second values.

        `orthogonality`: weight of the loss that keeps components at right angles.
        """
        super().__init__()
        require(backbone, TakesPrompts, "coda_prompt")
        if length % 2:
            raise UserError(f"method.length={length} does not split into keys and values; type method.length={length + 1}")
        if components > backbone.width:
            raise UserError(f"method.components={components} cannot be at right angles in {backbone.width} dimensions; type "
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
                raise UserError(f"method.components={self.components} leave task {task.index + 1} without one; type "
                                f"method.components={task.total}")  # fmt: skip

    def share_of(self, task: Task) -> tuple[int, int]:
        """The components that are the task's, by its share of the classes."""
        return tuple(self.components * end // task.total for end in (task.classes.start, task.classes.stop))

    def begin_task(self, task: Task) -> None:
        self.head.grow(len(task.seen))
        first, stop = self.share_of(task)
        self.pool.grow(stop - first)

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("train", task, task.train, [*self.pool.newest(), *self.head.parameters()])]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        tokens, classes = self.backbone.tokens(batch.images), phase.task.classes
        features = self.backbone(tokens, prefixes=self.prefixes(self.backbone(tokens)))
        logits = self.head(features, slice(classes.start, classes.stop))
        losses = {"ce": F.cross_entropy(logits, batch.labels - classes.start)}
        if self.orthogonality:
            losses["orthogonality"] = self.orthogonality * self.pool.crooked()
        return losses

    def prefixes(self, queries: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """Of each prompted block: keys and values, (batch, heads, length / 2, width of a head)."""
        mixed = self.pool(queries).unflatten(3, (self.backbone.heads, -1)).transpose(2, 3)
        return {block: pair.chunk(2, 2) for block, pair in zip(self.blocks, mixed)}

    # --- tests --------------------------------------------------------------------------------------------------------

    def predict(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def frozen_stage(self, images: Tensor) -> Tensor:
        """The queries."""
        return self.backbone(images)

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        return self.head(self.backbone(images(), prefixes=self.prefixes(frozen)))

    def features(self, images: Tensor) -> Tensor:
        tokens = self.backbone.tokens(images)
        return self.backbone(tokens, prefixes=self.prefixes(self.backbone(tokens)))
