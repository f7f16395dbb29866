"""PET: one module of parameter-efficient tuning for all tasks, without a protection against forgetting of its own."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import ProjectionSite
from cil.common.errors import UserError
from cil.common.ranges import Count, Positive, Rate, Whole
from cil.method import Batch, Losses, Method, Phase, Task
from cil.modules.adapters.shared import SharedAdapters, SharedLoRA
from cil.modules.heads.task_heads import TaskHeads
from cil.modules.prompts.deep import DeepPrompts


class PET(Method):
    """Trains adapters, LoRA or deep prompts on each task in turn, on a frozen transformer, with one linear head per task."""

    divisible = True

    def __init__(
        self, backbone: nn.Module, *, kind: Literal["adapter", "lora", "prompt"], size: Count, blocks: Count | None,
        scale: Rate, temperature: Positive, head_epochs: Whole,
    ) -> None:  # fmt: skip
        """`kind`: adapters beside the MLPs, LoRA on queries, keys and values, or prompts in the attention. `size`: bottleneck,
        rank, or number of prompts. `blocks`: only the first so many; null: all. `scale`: factor of an adapter's output.
        `temperature`: divides the logits in the loss. `head_epochs`: from the second task on, epochs in which only the head is
        trained, before those of train.epochs."""
        super().__init__()
        self.backbone, self.temperature, self.head_epochs = backbone, temperature, head_epochs
        depth = getattr(backbone, "depth", 1)
        blocks = depth if blocks is None else blocks
        if blocks > depth:
            raise UserError(f"method.blocks={blocks}, but the backbone has {depth}; type method.blocks=null for all")
        self.module: SharedAdapters | SharedLoRA | DeepPrompts
        if kind == "adapter":
            self.module = SharedAdapters(backbone, blocks, size, scale)
        else:
            self.module = (SharedLoRA if kind == "lora" else DeepPrompts)(backbone, blocks, size)
        self.heads = TaskHeads()

    def begin_task(self, task: Task) -> None:
        self.heads.add(self.backbone.width, len(task.classes))

    def phases(self, task: Task) -> list[Phase]:
        head = list(self.heads[-1].parameters())
        first = [Phase("head", task, task.train, head, self.head_epochs)] if task.old and self.head_epochs else []
        return [*first, Phase("train", task, task.train, [*self.module.parameters(), *head])]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        logits = self.heads[-1](self.features(batch.images)) / self.temperature
        return {"ce": F.cross_entropy(logits, batch.labels - phase.task.classes.start)}

    def features(self, images: Tensor) -> Tensor:
        return self.backbone(images, **self.module.given(self.backbone))

    def predict(self, images: Tensor) -> Tensor:
        return self.heads(self.features(images))

    # --- gradient projection ------------------------------------------------------------------------------------------

    def projection_sites(self) -> list[ProjectionSite]:
        return self.module.sites()

    def projection_inputs(self, images: Tensor, released: bool) -> dict[str, Tensor]:
        return self.module.inputs(self.backbone, self.backbone.tokens(images), released)
