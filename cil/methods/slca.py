"""SLCA: a low learning rate for the backbone, and a head aligned on pseudo-features (Zhang et al., ICCV 2023)."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.common.ranges import Count, NonNegative
from cil.method import Batch, Known, Losses, Method, Phase, Task
from cil.modules.heads.aligned import Aligned, Alignment, drifted
from cil.modules.heads.cosine import exact
from cil.modules.heads.linear import TaskHeads
from cil.modules.heads.linear_host import LinearHost
from cil.modules.statistics.features import computed
from cil.optim.schedules import cosine

SHARPNESS = 0.1  # the temperature by which normalised logits are divided
TINY = 1e-7


class SLCA(Aligned, LinearHost, Method):
    """Trains the whole network, then aligns the head on features sampled from a Gaussian per class.

    `learned` holds the head of each task as trained. After a task `head` starts as a copy of it, is aligned and predicts, so
    that an alignment does not influence later tasks.
    """

    task_of: Tensor  # (classes,), counted from 1

    def __init__(self, backbone: nn.Module, *, backbone_lr: NonNegative, alignment: Alignment, align_batch: Count) -> None:
        """`backbone_lr`: learning rate of the backbone; that of the head is optim.lr. `align_batch`: size of the batches of
        sampled features."""
        super().__init__(backbone)
        self.backbone_lr, self.align_batch = backbone_lr, align_batch
        self.learned, self.head = TaskHeads(), TaskHeads()
        self.prepare(backbone.width, alignment)
        self.tasks: list[range] = []  # the classes of each task so far
        self.register_buffer("task_of", torch.empty(0, dtype=torch.long))

    def begin_task(self, task: Task) -> None:
        for heads in (self.learned, self.head):
            heads.add(self.backbone.width, len(task.classes))
        self.gaussians.grow(len(task.seen))
        self.tasks.append(task.classes)
        self.task_of = torch.cat([self.task_of, self.task_of.new_full((len(task.classes),), len(self.tasks))])

    def rivals(self, task: Task) -> int:
        """Returns the first task whose classes compete; with separate heads per dataset, the first of the dataset."""
        return next(number for number, classes in enumerate(self.tasks) if classes.start in task.rivals)

    def phases(self, task: Task) -> list[Phase]:
        slow = {"params": [*self.backbone.image_parameters()], "lr": self.backbone_lr}
        train = Phase("train", task, task.train, [{"params": [*self.learned[-1].parameters()]}, slow])
        heads = self.head[self.rivals(task) :]
        return [train, *self.aligning(task, heads, self.align_batch, partial(cosine, every="epoch"))]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        logits = self.learned[-1](self.features(batch.images))
        return {"ce": F.cross_entropy(logits, batch.labels - phase.task.classes.start)}

    @torch.no_grad()
    def end_phase(self, phase: Phase) -> None:
        """After training, also copies the learned heads for alignment."""
        super().end_phase(phase)
        if phase.name == "train":
            first = self.rivals(phase.task)
            self.head[first:].load_state_dict(self.learned[first:].state_dict())

    def measured(self, task: Task) -> tuple[Tensor, Tensor]:
        return computed(self.features, task.train_plain, self.task_of.device)

    def aligned(self, task: Task) -> range:
        return task.rivals

    def shift(self, task: Task) -> Tensor:
        means, learned = self.gaussians.means[task.rivals.start :], self.task_of[task.rivals.start :, None]
        return (drifted(means, learned, len(self.tasks)) - means)[:, None]

    def losses_from(self, known: Known, phase: Phase) -> Losses:
        """Returns the loss of the head on pseudo-features."""
        first, start = self.rivals(phase.task), phase.task.rivals.start
        tasks = [range(own.start - start, own.stop - start) for own in self.tasks[first:]]
        with exact(known.frozen):
            logits = normalised(self.head[first:](known.frozen), tasks)
        return {"ce": F.cross_entropy(logits, known.labels - start)}


def normalised(logits: Tensor, tasks: Sequence[range]) -> Tensor:
    """Divide logits, (batch, classes), by the mean over tasks of the norm of a task's logits (SLCA's head alignment)."""
    norms = torch.stack([logits[:, task.start : task.stop].norm(dim=1) for task in tasks], 1)
    return logits / (norms.mean(1, keepdim=True) + TINY) / SHARPNESS
