"""SD-LoRA: learns low-rank directions one task after another, and the magnitudes of all of them (Wu et al., ICLR 2025)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import TakesLoRA, require
from cil.common.ranges import Count, Positive
from cil.data.images import Batch
from cil.data.scenario import Task
from cil.method import Losses, Method, Phase
from cil.modules.adapters.lora import LoRA, spread
from cil.modules.heads.cosine import exact
from cil.modules.heads.linear import GrowingLinear

LINEARS = ("query", "value")


class SDLoRA(Method):
    """Adds a low-rank branch per task to the queries and values of attention.

    Earlier branches are fixed and scaled to length 1; their magnitudes go on learning.
    """

    divisible = True
    downs: Tensor  # (depth, linears, tasks before · rank, width), each task's of length 1
    ups: Tensor  # (depth, linears, width, tasks before · rank), each task's of length 1

    def __init__(
        self, backbone: nn.Module, *, rank: Count, magnitude: Positive, magnitudes: Literal["kept", "restarted"]
    ) -> None:  # fmt: skip
        """`magnitude`: initial magnitude of a branch. `magnitudes`: `kept` has one for each layer; when a branch is scaled to
        length 1, its magnitude takes over the length, so that the network stays as it was. `restarted` has one magnitude per
        task for all layers, and sets all of them to the initial value when a task begins."""
        super().__init__()
        require(backbone, TakesLoRA, "sd_lora")
        self.backbone, self.rank, self.magnitude, self.kept = backbone, rank, magnitude, magnitudes == "kept"
        self.head = GrowingLinear(backbone.width)
        shape = (backbone.depth, len(LINEARS))
        self.register_buffer("downs", torch.empty(*shape, 0, backbone.width))
        self.register_buffer("ups", torch.empty(*shape, backbone.width, 0))
        self.magnitudes = nn.Parameter(torch.empty(0, *(shape if self.kept else (1, 1))))
        self.branch: LoRA | None = None

    def begin_task(self, task: Task) -> None:
        """Fixes the branch of the task before, and adds a new one."""
        self.head.grow(len(task.seen))
        before = self.magnitudes.data
        if self.branch is not None:
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
        assert self.branch is not None  # since the first begin_task
        return [Phase("train", task, task.train, [*self.branch.parameters(), self.magnitudes, *self.head.parameters()])]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        classes = phase.task.classes
        features = self.backbone(batch.images, changes=spread(LINEARS, *self.factors()))
        logits = self.head(features, slice(classes.start, classes.stop))
        return {"ce": F.cross_entropy(logits, batch.labels - classes.start)}

    def factors(self) -> tuple[Tensor, Tensor]:
        """Returns the `down` and `up` factors of all branches, (depth, linears, …); `up` has the magnitudes."""
        assert self.branch is not None
        scales = self.magnitudes.repeat_interleave(self.rank, 0).permute(1, 2, 0)[:, :, None]
        return torch.cat([self.downs, self.branch.down], 2), scales * torch.cat([self.ups, self.branch.up], 3)

    def features(self, images: Tensor) -> Tensor:
        with exact(images):
            down, up = self.factors()
            matrix = up @ down
        return self.backbone(images, changes=spread(LINEARS, matrix=matrix))

    def predict(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def facts(self) -> dict:
        """Reports the magnitude of each branch, in the mean over the layers."""
        return {"magnitudes": [round(value, 3) for value in self.magnitudes.mean((1, 2)).tolist()]}
