"""TUNA: one set of adapters per task, chosen by entropy, and a universal set merged of all (Wang et al., ICCV 2025)."""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import TakesAdapters, require
from cil.common.ranges import Count, NonNegative, Positive, Weight
from cil.method import Batch, Losses, Method, Phase, Task
from cil.modules.adapters.fusion import unified
from cil.modules.adapters.parallel import Adapters, AdapterSize
from cil.modules.adapters.subspaces import Start, TaskSets
from cil.modules.heads.aligned import Alignment, drifted
from cil.modules.heads.cosine import exact
from cil.modules.heads.linear import GrowingCosine


class TUNA(TaskSets, Method):
    """Adds the probabilities of two sets of adapters: the task's set that is surest of the image, and the universal set.

    The universal set is merged of all sets after each task. The surest set is the one whose prediction has the least entropy.
    """

    def __init__(
        self, backbone: nn.Module, *, size: AdapterSize, start: Start, sharpness: Positive, margin: NonNegative,
        orthogonality: Weight, overlap: Literal["sum", "mean"], old: Literal["fixed", "moving"],
        shrink: Literal["none", "older", "newer"], alignment: Alignment, align_fall: Count | None,
    ) -> None:  # fmt: skip
        """`start`: initial values of a set, drawn anew or those of the previous task. `sharpness`: factor of the cosines.
        `margin`: subtracted from the cosine of the right class in training.

        `orthogonality`: weight of the overlap between the up-projections of the new set and of old ones, divided by e in each
        task. `overlap`: `sum` of the absolute products over the bottleneck; or the absolute `mean` of the products of unit
        rows. `old`: whether old sets are fixed, or that loss and weight decay move their up-projections.

        `shrink`: scale the means at which features are sampled, the more the older or the newer the task. `align_fall`: epochs
        in which the rate of the alignment falls to 0 as a cosine, before it rises again in as many; null: all. A batch of the
        alignment holds `samples` features.
        """
        require(backbone, TakesAdapters, "tuna")
        super().__init__(backbone, size, start, alignment, align_fall=align_fall)
        self.divisible = not size.dropout
        self.sharpness, self.margin, self.orthogonality, self.shrink = sharpness, margin, orthogonality, shrink
        self.means, self.moving = overlap == "mean", old == "moving" and orthogonality > 0
        self.head = GrowingCosine(backbone.width)
        self.universal = self.new()

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        self.results = {} if self.moving else {number: kept for number, kept in self.results.items() if number}

    def spaces(self) -> list[Adapters | None]:
        return [self.universal, *self.sets]

    def logits(self, features: Tensor) -> Tensor:
        return self.sharpness * self.head(features)

    # --- training -----------------------------------------------------------------------------------------------------

    def phases(self, task: Task) -> list[Phase]:
        old = [adapter.up.weight for own in self.sets[:-1] for adapter in own] if self.moving else []
        learned = [*self.sets[-1].parameters(), *self.head.parameters(), *old]
        return [Phase("train", task, task.train, learned), *self.alignments(task)]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        classes = phase.task.classes
        labels = batch.labels - classes.start
        cosines = self.head(self.backbone(batch.images, adapters=self.sets[-1]), slice(classes.start, classes.stop))
        given = self.sharpness * (cosines - self.margin * F.one_hot(labels, len(classes)))
        losses = {"ce": F.cross_entropy(given, labels)}
        if self.orthogonality and len(self.sets) > 1:
            losses["overlap"] = self.orthogonality * math.exp(-len(self.sets)) * self.overlap()
        return losses

    def overlap(self) -> Tensor:
        """Returns the overlap between the up-projections of the newest set and of each old one."""
        *old, new = (torch.stack([adapter.up.weight for adapter in own]) for own in self.sets)  # (depth, width, bottleneck)
        if self.means:
            mean = F.normalize(new, dim=2).mean(1)
            return torch.stack([(mean * F.normalize(each, dim=2).mean(1)).sum(1).abs().mean() for each in old]).sum()
        return torch.stack([(new.mT @ each).abs().sum() for each in old]).sum()

    def shift(self, task: Task) -> Tensor | float:
        if self.shrink == "none":
            return 0.0
        size, means = len(task.classes), self.gaussians.means
        learned = [label // size + 1 if self.shrink == "older" else 1 - math.ceil(label / size) for label in task.seen]
        moved = [drifted(mean, own, len(self.sets)) - mean for mean, own in zip(means, learned)]
        return torch.stack(moved)[:, None]

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        for merged, *own in zip(self.universal.parameters(), *(each.parameters() for each in self.sets)):
            merged.copy_(unified(torch.stack(own)))

    # --- tests --------------------------------------------------------------------------------------------------------

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        """Returns the added probabilities, (batch, classes), from the features in all subspaces, (batch, subspaces, width)."""
        with exact(frozen):
            logs = self.logits(frozen.float()).log_softmax(2)
            entropies = -(logs.exp() * logs).sum(2)[:, 1:]
            surest = logs[torch.arange(len(logs), device=logs.device), 1 + entropies.argmin(1)]
            return logs[:, 0].exp() + surest.exp()
