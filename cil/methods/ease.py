"""EASE: a set of adapters a task, and class prototypes in the subspaces of all sets (Zhou et al., CVPR 2024)."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import TakesAdapters, require
from cil.common.ranges import Count, Fraction, Rate, Weight
from cil.data.frozen_features import FrozenResults
from cil.data.images import Batch, LabelledImages
from cil.data.scenario import Task
from cil.method import Losses, Method, Phase
from cil.modules.adapters.parallel import Adapters, side_by_side
from cil.modules.adapters.prototypes import scores, synthesised
from cil.modules.heads.cosine import exact
from cil.modules.heads.linear import CosineHead

ROOM = 250  # images that pass the blocks at a time, counted once a subspace


class EASE(Method):
    """Subspaces are numbered by their tasks; where the backbone as it is counts as one, it stands before them."""

    def __init__(
        self, backbone: nn.Module, *, bottleneck: Count, scale: Rate, dropout: Fraction, others: Weight, plain: Weight
    ) -> None:
        """`others`: the weight of the mean cosine in the subspaces that are not a class's own; `plain`: that of the cosine
        in the backbone's own, 0 leaves it out."""
        super().__init__()
        require(backbone, TakesAdapters, "ease")
        self.divisible = not dropout
        self.backbone, self.others, self.plain = backbone, others, plain
        self.first = int(plain > 0)  # subspace of an adapter set
        self.new = partial(Adapters, backbone.depth, backbone.width, bottleneck=bottleneck, scale=scale, dropout=dropout)
        self.new()  # a wrong size is told before anything is learned
        self.sets, self.head = nn.ModuleList(), None
        self.register_buffer("prototypes", torch.empty(self.first, 0, backbone.width))  # (subspaces, classes, width)
        self.register_buffer("task_of", torch.empty(0, dtype=torch.long), persistent=False)  # (classes,)
        self.tasks: list[range] = []  # the classes of each task met
        self.results: list[FrozenResults] = []  # of each subspace, for images that are asked about again

    def begin_task(self, task: Task) -> None:
        self.sets.append(self.new())
        self.head = CosineHead(self.backbone.width, len(task.classes))
        self.prototypes = F.pad(self.prototypes, (0, 0, 0, len(task.classes), 0, 1))
        self.task_of = F.pad(self.task_of, (0, len(task.classes)), value=task.index)
        self.tasks.append(task.classes)

    # --- training -----------------------------------------------------------------------------------------------------

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("train", task, task.train, [*self.sets[-1].parameters(), *self.head.parameters()])]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        logits = self.head(self.backbone(batch.images, adapters=self.sets[-1]))
        return {"ce": F.cross_entropy(logits, batch.labels - phase.task.classes.start)}

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        """New classes are measured in all subspaces, old ones made up in those that they never saw."""
        images, device = task.train_plain, self.prototypes.device
        size = max(1, ROOM // len(self.prototypes))
        found = torch.cat([self.everywhere(batch.images).float() for batch in images.batches(size, device)])
        labels = images.labels.to(device)
        for label in task.classes:
            self.prototypes[:, label] = found[labels == label].mean(0)
        measured = self.prototypes[self.first :]
        with exact(measured):
            for own, old in enumerate(self.tasks[:-1]):
                for newer in range(own + 1, len(self.tasks)):
                    among = measured[:, self.tasks[newer].start :]
                    for label in old:
                        measured[newer, label] = synthesised(measured[own, label], among[own], among[newer])

    # --- tests --------------------------------------------------------------------------------------------------------

    def predict(self, images: Tensor) -> Tensor:
        return self.predict_from(self.everywhere(images), lambda: images)

    def features(self, images: Tensor) -> Tensor:
        return self.everywhere(images).flatten(1)

    def everywhere(self, images: Tensor) -> Tensor:
        """(batch, subspaces, width), all sets of adapters in one pass."""
        tokens, found = self.backbone.tokens(images), []
        if self.first:
            found.append(self.backbone(tokens)[None])
        if self.sets:
            passed = self.backbone(tokens.repeat(len(self.sets), 1, 1), adapters=side_by_side(self.sets))
            found.append(passed.unflatten(0, (len(self.sets), -1)))
        return torch.cat(found).transpose(0, 1)

    def known(self, images: LabelledImages) -> Tensor:
        """The same of images that are asked about after every task: a set that has been trained stays as it is."""
        for number in range(len(self.results), len(self.prototypes)):
            self.results.append(FrozenResults(partial(self.feature, number), self.prototypes.device))
        return torch.stack([each.of(images) for each in self.results], 1)

    def feature(self, number: int, images: Tensor) -> Tensor:
        """(batch, width) in one subspace."""
        adapters = None if number < self.first else self.sets[number - self.first]
        return self.backbone(images, adapters=adapters).float()

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        """(batch, subspaces, width) → (batch, classes)"""
        with exact(frozen):
            spaces, prototypes = frozen.float().unbind(1), self.prototypes.unbind()
            found = scores(spaces[self.first :], prototypes[self.first :], self.task_of, self.others)
            if self.first:
                found = found + self.plain * (F.normalize(spaces[0], dim=1) @ F.normalize(prototypes[0], dim=1).T)
        return found
