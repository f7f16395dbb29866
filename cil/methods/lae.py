"""LAE: an online and an offline low-rank module, whose answers are ensembled (Gao et al., ICCV 2023)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from cil.capabilities import TakesLoRA, require
from cil.common.errors import UserError
from cil.common.ranges import Count, Fraction, Whole
from cil.method import Batch, Known, Losses, Method, Phase, Task
from cil.modules.adapters.lora import LoRA, spread
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
            self.average(1.0)

    def phases(self, task: Task) -> list[Phase]:
        head = list(self.head.parameters())
        first = [Phase("head", task, task.train, head, self.head_epochs)] if task.old and self.head_epochs else []
        return [*first, Phase("train", task, task.train, [*head, *self.online.parameters()])]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        return {"ce": self.head.own_loss(self.features(batch.images), batch.labels, phase.task.classes)}

    def training_steps(self, batch: Batch | Known, phase: Phase) -> Iterator[Losses]:
        """After the step, moves the average."""
        yield from super().training_steps(batch, phase)
        if self.tasks > 1:
            self.average(1 - self.decay)

    def average(self, share: float) -> None:
        """Moves the offline module by this share of its distance to the online one."""
        for name, parameter in self.online.named_parameters():
            self.get_buffer(f"offline_{name}").lerp_(parameter.data, share)

    def features(self, images: Tensor, offline: bool = False) -> Tensor:
        """Returns the features of images or tokens with one of the two modules, (batch, width)."""
        online = self.online.named_parameters()
        module = {name: self.get_buffer(f"offline_{name}") if offline else own for name, own in online}
        changes = dict(zip(self.blocks, spread(LINEARS, module["down"], module["scale"] * module["up"])))
        return self.backbone(images, changes=[changes.get(block, {}) for block in range(self.backbone.depth)])

    def predict(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) → (batch, classes) larger probabilities."""
        tokens, modules = self.backbone.tokens(images), (False, True) if self.tasks > 1 else (False,)
        return torch.stack([self.head(self.features(tokens, own)).float().softmax(1) for own in modules]).amax(0)
