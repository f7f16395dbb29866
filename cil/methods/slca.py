"""SLCA: a slowly learning backbone, and a head aligned on pseudo-features of all classes (Zhang et al., ICCV 2023)."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.common.ranges import Count, NonNegative, Whole
from cil.data.frozen_features import Known
from cil.data.images import Batch
from cil.data.scenario import Task
from cil.method import Losses, Method, Phase
from cil.modules.heads.alignment import drifted, normalised
from cil.modules.heads.cosine import exact
from cil.modules.heads.linear_host import LinearHost
from cil.modules.heads.task_heads import TaskHeads
from cil.modules.statistics.gaussians import Gaussians
from cil.modules.statistics.pseudo_features import PseudoFeatures
from cil.optim.schedules import cosine

FEATURES = 250  # images at a time, for statistics


class SLCA(LinearHost, Method):
    """`learned` are the heads of tasks as each was learned. After a task `head` becomes a copy of them, is aligned and answers,
    so that what alignment did is forgotten before the next task."""

    def __init__(
        self, backbone: nn.Module, *, backbone_lr: NonNegative, align_epochs: Whole, align_lr: NonNegative, align_batch: Count,
        samples: Count,
    ) -> None:  # fmt: skip
        """`backbone_lr`: what the backbone learns with where the head has the recipe's rate.

        `align_…`: of the second phase, from the second task on; an epoch draws `samples` of each class.
        """
        super().__init__(backbone)
        self.backbone_lr, self.samples = backbone_lr, samples
        self.align_epochs, self.align_lr, self.align_batch = align_epochs, align_lr, align_batch
        self.learned, self.head = TaskHeads(), TaskHeads()
        self.gaussians = Gaussians(backbone.width, shrinkage=False)
        self.tasks: list[range] = []  # the classes of each task met
        self.drawn = torch.empty(0)  # (samples, width): what an epoch of the second phase learns from
        self.register_buffer("task_of", torch.empty(0, dtype=torch.long))  # of each class, counted from 1

    def begin_task(self, task: Task) -> None:
        for heads in (self.learned, self.head):
            heads.add(self.backbone.width, len(task.classes))
        self.gaussians.grow(len(task.seen))
        self.tasks.append(task.classes)
        self.task_of = torch.cat([self.task_of, self.task_of.new_full((len(task.classes),), len(self.tasks))])

    def rivals(self, task: Task) -> int:
        """The first task whose classes compete; with heads apart, the first of the data set."""
        return next(number for number, classes in enumerate(self.tasks) if classes.start in task.rivals)

    # --- training -----------------------------------------------------------------------------------------------------

    def phases(self, task: Task) -> list[Phase]:
        slow = {"params": [*self.backbone.image_parameters()], "lr": self.backbone_lr}
        train = Phase("train", task, task.train, [{"params": [*self.learned[-1].parameters()]}, slow])
        if task.rivals == task.classes or not self.align_epochs:
            return [train]
        drawn = PseudoFeatures(torch.tensor(task.rivals).repeat_interleave(self.samples), lambda places: self.drawn[places])
        heads = {"params": [*self.head[self.rivals(task) :].parameters()], "lr": self.align_lr}
        schedule = partial(cosine, every="epoch")
        return [train, Phase("align", task, drawn, [heads], self.align_epochs, self.align_batch, schedule)]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        logits = self.learned[-1](self.features(batch.images))
        return {"ce": F.cross_entropy(logits, batch.labels - phase.task.classes.start)}

    @torch.no_grad()
    def end_phase(self, phase: Phase) -> None:
        """Statistics of the task's classes under the backbone as it is now, never looked at again; then a head to align."""
        if phase.name == "align":
            self.drawn = self.drawn.new_empty(0)
            return
        images, device, first = phase.task.train_plain, self.task_of.device, self.rivals(phase.task)
        features = torch.cat([self.features(batch.images).float() for batch in images.batches(FEATURES, device)])
        labels = images.labels.to(device)
        with exact(features):
            for label in phase.task.classes:
                self.gaussians.remember(label, features[labels == label])
        self.head[first:].load_state_dict(self.learned[first:].state_dict())

    # --- alignment ----------------------------------------------------------------------------------------------------

    def begin_epoch(self, phase: Phase, epoch: int) -> None:
        if phase.name == "align":
            self.drawn = self.sampled(torch.tensor(phase.task.rivals)).flatten(0, 1)

    def sampled(self, labels: Tensor) -> Tensor:
        """(classes, samples, width) pseudo-features of classes whose `labels` lie on the CPU."""
        there = labels.to(self.task_of.device)
        means = self.gaussians.means[there]
        moved = drifted(means, self.task_of[there, None], len(self.tasks)) - means
        return self.gaussians.sample(labels, self.samples) + moved[:, None]

    def losses_from(self, known: Known, phase: Phase) -> Losses:
        """Of the head alone, on what was drawn."""
        first, start = self.rivals(phase.task), phase.task.rivals.start
        tasks = [range(own.start - start, own.stop - start) for own in self.tasks[first:]]
        with exact(known.frozen):
            logits = normalised(self.head[first:](known.frozen), tasks)
        return {"ce": F.cross_entropy(logits, known.labels - start)}

    def facts(self) -> dict:
        return {"ridge": self.gaussians.ridge}
