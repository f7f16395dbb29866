"""LAE: an online and an offline low-rank module, whose answers are ensembled (Gao et al., ICCV 2023)."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import TakesLoRA, require
from cil.common.errors import UserError
from cil.common.ranges import Count, Fraction, Whole
from cil.data.frozen_features import Known
from cil.data.images import Batch
from cil.data.scenario import Task
from cil.method import Losses, Method, Phase
from cil.modules.adapters.lora import Changes, LoRA, spread
from cil.modules.heads.linear import GrowingLinear

LINEARS = ("key", "value")


class LAE(Method):
    """Trains one low-rank module on all tasks in turn, the online one. The offline one is its moving average.

    Each class gets the larger of the probabilities that both modules give.
    """

    divisible = True

    def __init__(
        self, backbone: nn.Module, *, rank: Count, blocks: Sequence[Whole], decay: Fraction, head_epochs: Whole
    ) -> None:  # fmt: skip
        """`blocks`: those whose keys and values have the module. `decay`: share of the average that a step keeps.
        `head_epochs`: from the second task on, epochs in which only the head is trained, before those of train.epochs."""
        super().__init__()
        require(backbone, TakesLoRA, "lae")
        if not blocks or len(set(blocks)) < len(blocks) or not set(blocks) <= set(range(backbone.depth)):
            raise UserError(f"method.blocks={list(blocks)} must name some of 0…{backbone.depth - 1}, each once; type "
                            "method.blocks=[0,1,2,3,4]")  # fmt: skip
        self.backbone, self.blocks, self.decay, self.head_epochs = backbone, list(blocks), decay, head_epochs
        self.head = GrowingLinear(backbone.width)
        self.online = LoRA(len(blocks), backbone.width, LINEARS, rank)
        self.online.scale = nn.Parameter(torch.ones(len(blocks), len(LINEARS), 1, 1))
        for name, parameter in self.online.named_parameters():
            self.register_buffer(f"offline_{name}", torch.zeros_like(parameter))
        self.tasks = 0

    def begin_task(self, task: Task) -> None:
        """Before the second task, the offline module is a copy of the online one."""
        self.head.grow(len(task.seen))
        self.tasks = task.index + 1
        if task.index == 1:
            for name, parameter in self.online.named_parameters():
                self.get_buffer(f"offline_{name}").copy_(parameter.data)

    # --- training -----------------------------------------------------------------------------------------------------

    def phases(self, task: Task) -> list[Phase]:
        head = list(self.head.parameters())
        first = [Phase("head", task, task.train, head, self.head_epochs)] if task.old and self.head_epochs else []
        return [*first, Phase("train", task, task.train, [*head, *self.online.parameters()])]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        classes = phase.task.classes
        features = self.backbone(batch.images, changes=self.changes(dict(self.online.named_parameters())))
        logits = self.head(features, slice(classes.start, classes.stop))
        return {"ce": F.cross_entropy(logits, batch.labels - classes.start)}

    def training_steps(self, batch: Batch | Known, phase: Phase) -> Iterator[Losses]:
        """After the step, moves the average."""
        yield from super().training_steps(batch, phase)
        if self.tasks > 1:
            for name, parameter in self.online.named_parameters():
                self.get_buffer(f"offline_{name}").lerp_(parameter.data, 1 - self.decay)

    def changes(self, module: dict[str, Tensor]) -> list[Changes]:
        """Return the changes of all blocks, from the tensors of the online or the offline module."""
        own = spread(LINEARS, module["down"], module["scale"] * module["up"])
        by_block = dict(zip(self.blocks, own))
        return [by_block.get(block, {}) for block in range(self.backbone.depth)]

    # --- tests --------------------------------------------------------------------------------------------------------

    def features(self, images: Tensor) -> Tensor:
        return self.backbone(images, changes=self.changes(dict(self.online.named_parameters())))

    def predict(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) → (batch, classes) larger probabilities."""
        tokens = self.backbone.tokens(images)
        online = self.head(self.features(tokens)).float().softmax(1)
        if self.tasks < 2:
            return online
        names = [name for name, _ in self.online.named_parameters()]
        offline = self.changes({name: self.get_buffer(f"offline_{name}") for name in names})
        return torch.maximum(online, self.head(self.backbone(tokens, changes=offline)).float().softmax(1))
