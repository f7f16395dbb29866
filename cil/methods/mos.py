"""MOS: task adapters merged with older ones in training, and chosen at test time by their answers (Sun et al., AAAI 2025)."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import TakesAdapters, require
from cil.common.ranges import NonNegative, Share, Weight
from cil.method import Batch, Known, Losses, Method, Phase, Task
from cil.modules.adapters.parallel import AdapterSize
from cil.modules.adapters.subspaces import Start, TaskSets
from cil.modules.heads.aligned import Alignment
from cil.modules.heads.cosine import exact
from cil.modules.heads.linear import GrowingLinear
from cil.modules.statistics.features import class_means

REFINEMENTS = 4  # the most sets that an image tries
TEMPERATURE = 0.8  # of the products of features in the contrast


class MOS(TaskSets, Method):
    """Adds the probabilities of class means, with the first set of adapters, and of the head, with a set that fits the image.

    The class means choose the first set to try; then the head's answer with one set chooses the next, until it is the same.
    `older` holds the mean of the sets of earlier tasks, as they were trained. In training, the new set is merged with it.
    """

    prototypes: Tensor  # (classes, width), mean features with the first set
    task_of: Tensor  # (classes,)

    def __init__(
        self, backbone: nn.Module, *, size: AdapterSize, start: Start, momentum: Share, merge: Literal["step", "pass"],
        contrast: Weight, head_lr: NonNegative, alignment: Alignment, diagonal: bool,
    ) -> None:  # fmt: skip
        """`start`: initial values of a set, drawn anew or those of the previous task. `momentum`: share of the older sets' mean
        in a merge. `merge`: after each `step`; or also in each `pass` of training, once per block, and when images pass
        outside of training until only that mean is left.

        `contrast`: weight of a loss that separates the features of a batch from each other and from the means of old classes.
        `head_lr`: learning rate of the head; that of adapters is optim.lr. `diagonal`: sample each dimension by itself.
        A batch of the alignment holds `samples` features.
        """
        require(backbone, TakesAdapters, "mos")
        super().__init__(backbone, size, start, alignment, diagonal=diagonal)
        self.momentum, self.passes, self.contrast, self.head_lr = momentum, merge == "pass", contrast, head_lr
        self.divisible = not (size.dropout or contrast or self.passes)
        self.head = GrowingLinear(backbone.width)
        self.older = self.new()
        self.register_buffer("prototypes", torch.empty(0, backbone.width))
        self.register_buffer("task_of", torch.empty(0, dtype=torch.long))

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        self.prototypes = F.pad(self.prototypes, (0, 0, 0, len(task.classes)))
        self.task_of = F.pad(self.task_of, (0, len(task.classes)), value=task.index)

    def logits(self, features: Tensor) -> Tensor:
        return self.head(features)

    # --- training -----------------------------------------------------------------------------------------------------

    def phases(self, task: Task) -> list[Phase]:
        head = {"params": [*self.head.parameters()], "lr": self.head_lr}
        return [Phase("train", task, task.train, [{"params": [*self.sets[-1].parameters()]}, head]), *self.alignments(task)]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        features = self.backbone(batch.images, adapters=self.merging() if self.passes else self.sets[-1])
        losses = {"ce": self.head.own_loss(features, batch.labels, phase.task.classes)}
        if self.contrast:
            old = self.gaussians.means[: phase.task.classes.start]
            with exact(features):
                losses["contrast"] = self.contrast * apart(torch.cat([old, features.float()]))
        return losses

    def training_steps(self, batch: Batch | Known, phase: Phase) -> Iterator[Losses]:
        """After the step, merges the new set with the older ones."""
        yield from super().training_steps(batch, phase)
        if phase.name == "train":
            self.merge()

    def merging(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """Return the new set, of which each adapter merges the whole set before it works."""

        def merged(adapter: nn.Module, x: Tensor) -> Tensor:
            self.merge()
            return adapter(x)

        return [partial(merged, adapter) for adapter in self.sets[-1]]

    def merge(self) -> None:
        if len(self.sets) > 1:
            for own, older in zip(self.sets[-1].parameters(), self.older.parameters()):
                own.data = own.data.lerp(older.data, self.momentum)  # a new tensor: autograd keeps the values that were used

    @torch.no_grad()
    def end_phase(self, phase: Phase) -> None:
        if phase.name == "train":
            for own, older in zip(self.sets[-1].parameters(), self.older.parameters()):
                mean = older.lerp(own, 1 / len(self.sets))
                if self.passes and self.momentum and len(self.sets) > 1:
                    own.copy_(older)
                older.copy_(mean)
        super().end_phase(phase)

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        self.prototypes[task.classes.start :] = class_means(*self.measured(task, 0), task.classes)

    # --- tests --------------------------------------------------------------------------------------------------------

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        """Returns the added probabilities, (batch, classes), from the features in all subspaces, (batch, subspaces, width)."""
        with exact(frozen):
            frozen, rows = frozen.float(), torch.arange(len(frozen), device=frozen.device)
            cosines = F.normalize(frozen[:, 0], dim=1) @ F.normalize(self.prototypes, dim=1).T
            logits, own = self.head(frozen), self.task_of[cosines.argmax(1)]
            for _ in range(REFINEMENTS):
                found = logits[rows, own]
                own = self.task_of[found.argmax(1)]
            return (len(self.sets) * cosines).softmax(1) + found.softmax(1)


def apart(features: Tensor) -> Tensor:
    """(n, width) → the cross-entropy of finding each feature among all by their products."""
    return F.cross_entropy(features @ features.T / TEMPERATURE, torch.arange(len(features), device=features.device))
