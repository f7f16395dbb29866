"""InfLoRA: low-rank branches in a subspace in which they do not disturb old tasks (Liang and Li, CVPR 2024)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import TakesLoRA, require
from cil.common.errors import UserError
from cil.common.ranges import Count, Part, Positive
from cil.method import Batch, LabelledImages, Losses, Method, Phase, Task
from cil.modules.adapters.lora import Changes, spread
from cil.modules.heads.cosine import exact
from cil.modules.heads.linear import TaskHeads
from cil.modules.statistics.subspace import free, widened

LINEARS = ("key", "value")
BATCH = 64  # images at a time whose attention inputs are summed up


class InfLoRA(Method):
    """Adds one low-rank branch per task to the keys and values of attention. Only its `up` factors are trained.

    The rows of `down` are the main directions of the task's attention inputs outside the subspace of old inputs. After the task
    the branch is merged into `matrix`, and the directions of its inputs are added to `projector`.
    """

    matrix: Tensor  # (depth, linears, width, width): the branches of finished tasks
    projector: Tensor  # (depth, width, width): onto the directions of old inputs
    down: Tensor  # (depth, rank, width), for keys and values

    def __init__(self, backbone: nn.Module, *, rank: Count, energy: Part, scale: Positive, squared: bool, short: bool) -> None:
        """`energy`: share of the inputs' squared norm that the old subspace holds after the first task. It rises linearly with
        the classes seen before a task, and would be 1 after all of them. `scale`: length of the rows of `down`.

        `squared`: singular values are those of the inputs' second moments, not of the inputs, so that shares are of fourth
        powers. `short`: the subspace of the first task leaves out the direction with which it reaches its share.
        """
        super().__init__()
        require(backbone, TakesLoRA, "inflora")
        if rank > backbone.width:
            raise UserError(f"method.rank={rank}, but the backbone is {backbone.width} wide; type method.rank=10")
        self.divisible = True
        self.backbone, self.energy, self.scale, self.squared, self.short = backbone, energy, scale, squared, short
        self.heads = TaskHeads()
        depth, width = backbone.depth, backbone.width
        self.up = nn.Parameter(torch.zeros(depth, len(LINEARS), width, rank))
        self.register_buffer("down", torch.zeros(depth, rank, width))
        self.register_buffer("matrix", torch.zeros(depth, len(LINEARS), width, width))
        self.register_buffer("projector", torch.zeros(depth, width, width, dtype=torch.double))

    def begin_task(self, task: Task) -> None:
        self.heads.add(self.backbone.width, len(task.classes))
        self.up.data.zero_()
        self.down.zero_()

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("train", task, task.train, [self.up, *self.heads[-1].parameters()])]

    @torch.no_grad()
    def begin_epoch(self, phase: Phase, epoch: int) -> None:
        """Before a task is trained, chooses the rows of its branch from its inputs."""
        if not self.down.any():
            _, vectors = free(self.projector, self.moments(phase.task.train))
            self.down.copy_(self.scale * vectors[..., : self.down.shape[1]].mT)

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        logits = self.heads[-1](self.backbone(batch.images, changes=self.changes()))
        return {"ce": F.cross_entropy(logits, batch.labels - phase.task.classes.start)}

    def changes(self) -> list[Changes]:
        return spread(LINEARS, self.down[:, None].expand(-1, len(LINEARS), -1, -1), self.up, self.matrix)

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        energy = self.energy + (1 - self.energy) * len(task.old) / task.total
        moments = self.moments(task.train)
        self.projector.copy_(widened(self.projector, moments, energy, short=self.short and not task.old))
        with exact(self.up):
            self.matrix += self.up @ self.down[:, None]
        self.up.data.zero_()

    def moments(self, images: LabelledImages) -> Tensor:
        """Returns Σ xᵀx over the inputs of each attention layer, (depth, width, width), or its square. Its trace is 1."""
        random, device = torch.Generator().manual_seed(int(torch.randint(2**62, ()))), self.up.device
        total = torch.zeros_like(self.projector)
        for rows in torch.arange(len(images)).split(BATCH):
            tokens = self.backbone.tokens(images.batch(rows, device, random).images)
            inputs = torch.stack(self.backbone.attention_inputs(tokens, self.changes())).flatten(1, 2).double()
            total += inputs.mT @ inputs
        total = total @ total if self.squared else total
        return total / total.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]

    def features(self, images: Tensor) -> Tensor:
        return self.backbone(images, changes=spread(LINEARS, matrix=self.matrix))

    def predict(self, images: Tensor) -> Tensor:
        return self.heads(self.features(images))

    def facts(self) -> dict:
        """Reports how many directions of old inputs each block keeps out of new branches."""
        return {"old directions": [round(float(own.trace())) for own in self.projector]}
