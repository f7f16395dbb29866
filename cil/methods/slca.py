"""SLCA: a low learning rate for the backbone, and a head aligned on pseudo-features (Zhang et al., ICCV 2023)."""

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

FEATURES = 250  # images per batch when features are computed


class SLCA(LinearHost, Method):
    """Trains the whole network, then aligns the head on features sampled from a Gaussian per class.

    `learned` holds the head of each task as trained. After a task `head` starts as a copy of it, is aligned and predicts, so
    that an alignment does not influence later tasks.
    """

    task_of: Tensor  # (classes,), counted from 1

    def __init__(
        self, backbone: nn.Module, *, backbone_lr: NonNegative, align_epochs: Whole, align_lr: NonNegative, align_batch: Count,
        samples: Count,
    ) -> None:  # fmt: skip
        """`backbone_lr`: learning rate of the backbone; that of the head is optim.lr.

        `align_…`: training of the alignment phase, from the second task on. `samples`: pseudo-features per class and epoch.
        """
        super().__init__(backbone)
        self.backbone_lr, self.samples = backbone_lr, samples
        self.align_epochs, self.align_lr, self.align_batch = align_epochs, align_lr, align_batch
        self.learned, self.head = TaskHeads(), TaskHeads()
        self.gaussians = Gaussians(backbone.width, shrinkage=False)
        self.tasks: list[range] = []  # the classes of each task so far
        self.drawn = torch.empty(0)  # (samples, width): the pseudo-features of an alignment epoch
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

    # --- training -----------------------------------------------------------------------------------------------------

    def phases(self, task: Task) -> list[Phase]:
        slow = {"params": [*self.backbone.image_parameters()], "lr": self.backbone_lr}
        train = Phase("train", task, task.train, [{"params": [*self.learned[-1].parameters()]}, slow])
        if task.rivals == task.classes or not self.align_epochs:
            return [train]
        drawn = PseudoFeatures(torch.tensor(task.rivals).repeat_interleave(self.samples), lambda places: self.drawn[places])
        heads = {"params": [*self.head[self.rivals(task) :].parameters()], "lr": self.align_lr}
        schedule = partial(cosine, every="epoch")
        align = Phase("align", task, drawn, [heads], self.align_epochs, self.align_batch, schedule)  # type: ignore[arg-type]
        return [train, align]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        logits = self.learned[-1](self.features(batch.images))
        return {"ce": F.cross_entropy(logits, batch.labels - phase.task.classes.start)}

    @torch.no_grad()
    def end_phase(self, phase: Phase) -> None:
        """After training, stores the Gaussians of the task's classes and copies the learned heads for alignment.

        The Gaussians are not updated when the backbone changes later.
        """
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
        """Samples pseudo-features, (classes, samples, width), of the classes in `labels`, a tensor on the CPU."""
        there = labels.to(self.task_of.device)
        means = self.gaussians.means[there]
        moved = drifted(means, self.task_of[there, None], len(self.tasks)) - means
        return self.gaussians.sample(labels, self.samples) + moved[:, None]

    def losses_from(self, known: Known, phase: Phase) -> Losses:
        """Returns the loss of the head on pseudo-features."""
        first, start = self.rivals(phase.task), phase.task.rivals.start
        tasks = [range(own.start - start, own.stop - start) for own in self.tasks[first:]]
        with exact(known.frozen):
            logits = normalised(self.head[first:](known.frozen), tasks)
        return {"ce": F.cross_entropy(logits, known.labels - start)}

    def facts(self) -> dict:
        return {"ridge": self.gaussians.ridge}
