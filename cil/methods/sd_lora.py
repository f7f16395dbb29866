"""SD-LoRA: learns low-rank directions one task after another, and the magnitudes of all of them (Wu et al., ICLR 2025)."""

from typing import Literal

import torch
from torch import Tensor, nn

from cil.capabilities import TakesLoRA, require
from cil.common.ranges import Count, Positive
from cil.method import Batch, Losses, Method, Phase, Task
from cil.modules.adapters.lora import LoRA, spread
from cil.modules.heads.cosine import exact
from cil.modules.heads.linear_host import LinearHost

LINEARS = ("query", "value")


class SDLoRA(LinearHost, Method):
    """Adds a low-rank branch per task to the queries and values of attention.

    Earlier branches are fixed and scaled to length 1; their magnitudes go on learning.
    """

    divisible = True
    downs: Tensor  # (depth, linears, tasks before · rank, width), each task's of length 1
    branch: LoRA  # of the newest task
    ups: Tensor  # (depth, linears, width, tasks before · rank), each task's of length 1

    def __init__(
        self, backbone: nn.Module, *, rank: Count, magnitude: Positive, magnitudes: Literal["kept", "restarted"]
    ) -> None:  # fmt: skip
        """`magnitude`: initial magnitude of a branch. `magnitudes`: `kept` has one for each layer; when a branch is scaled to
        length 1, its magnitude takes over the length, so that the network stays as it was. `restarted` has one magnitude per
        task for all layers, and sets all of them to the initial value when a task begins."""
        super().__init__(backbone)
        require(backbone, TakesLoRA, "sd_lora")
        self.rank, self.magnitude, self.kept = rank, magnitude, magnitudes == "kept"
        shape = (backbone.depth, len(LINEARS))
        self.register_buffer("downs", torch.empty(*shape, 0, backbone.width))
        self.register_buffer("ups", torch.empty(*shape, backbone.width, 0))
        self.magnitudes = nn.Parameter(torch.empty(0, *(shape if self.kept else (1, 1))))

    def begin_task(self, task: Task) -> None:
        """Fixes the branch of the task before, and adds a new one."""
        super().begin_task(task)
        before = self.magnitudes.data
        if task.index:
            down, up = self.branch.down.data, self.branch.up.data
            long, wide = (part.flatten(2).norm(dim=2).clamp_min(torch.finfo(part.dtype).tiny) for part in (down, up))
            self.downs = torch.cat([self.downs, down / long[..., None, None]], 2)
            self.ups = torch.cat([self.ups, up / wide[..., None, None]], 3)
            before = (
                torch.cat([before[:-1], before[-1:] * long * wide]) if self.kept else torch.full_like(before, self.magnitude)
            )
        self.magnitudes = nn.Parameter(torch.cat([before, before.new_full((1, *before.shape[1:]), self.magnitude)]))
        self.branch = LoRA(self.backbone.depth, self.backbone.width, LINEARS, self.rank)

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("train", task, task.train, [*self.branch.parameters(), self.magnitudes, *self.head.parameters()])]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        features = self.backbone(batch.images, changes=spread(LINEARS, *self.factors()))
        return {"ce": self.head.own_loss(features, batch.labels, phase.task.classes)}

    def factors(self) -> tuple[Tensor, Tensor]:
        """Returns the `down` and `up` factors of all branches, (depth, linears, …); `up` has the magnitudes."""
        scales = self.magnitudes.repeat_interleave(self.rank, 0).permute(1, 2, 0)[:, :, None]
        return torch.cat([self.downs, self.branch.down], 2), scales * torch.cat([self.ups, self.branch.up], 3)

    def features(self, images: Tensor) -> Tensor:
        with exact(images):
            down, up = self.factors()
            matrix = up @ down
        return self.backbone(images, changes=spread(LINEARS, matrix=matrix))

    def facts(self) -> dict:
        """Reports the magnitude of each branch, in the mean over the layers."""
        return {"magnitudes": [round(value, 3) for value in self.magnitudes.mean((1, 2)).tolist()]}
