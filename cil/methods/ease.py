"""EASE: one set of adapters per task, and class prototypes in the feature subspaces of all sets (Zhou et al., CVPR 2024)."""

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

CHUNK = 250  # images times subspaces that pass the backbone at a time


class EASE(Method):
    """Trains a new set of adapters on each task and predicts the nearest class prototype over all subspaces.

    Each set of adapters defines a subspace, in the order of tasks. With `plain` above 0 the backbone without adapters is one
    more subspace, before the others.
    """

    head: CosineHead  # of the newest task, for training only
    prototypes: Tensor  # (subspaces, classes, width)
    task_of: Tensor  # (classes,)

    def __init__(
        self, backbone: nn.Module, *, bottleneck: Count, scale: Rate, dropout: Fraction, others: Weight, plain: Weight
    ) -> None:
        """`others`: weight of the mean cosine in the subspaces other than that of the class's own task. `plain`: weight of the
        cosine in the subspace of the backbone without adapters; 0 leaves it out."""
        super().__init__()
        require(backbone, TakesAdapters, "ease")
        self.divisible = not dropout
        self.backbone, self.others, self.plain = backbone, others, plain
        self.first = int(plain > 0)  # index of the first subspace with adapters
        self.new = partial(Adapters, backbone.depth, backbone.width, bottleneck=bottleneck, scale=scale, dropout=dropout)
        self.new()  # raises an error for a wrong size before any training
        self.sets = nn.ModuleList()
        self.register_buffer("prototypes", torch.empty(self.first, 0, backbone.width))
        self.register_buffer("task_of", torch.empty(0, dtype=torch.long), persistent=False)
        self.tasks: list[range] = []  # the classes of each task so far
        self.results: list[FrozenResults] = []  # cached features of each subspace

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
        """Computes the prototypes of new classes in all subspaces, and synthesizes those of old classes in newer subspaces."""
        images, device = task.train_plain, self.prototypes.device
        size = max(1, CHUNK // len(self.prototypes))
        features = torch.cat([self.everywhere(batch.images).float() for batch in images.batches(size, device)])
        labels = images.labels.to(device)
        for label in task.classes:
            self.prototypes[:, label] = features[labels == label].mean(0)
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
        """Returns the features in all subspaces, (batch, subspaces, width). All sets of adapters run in one pass."""
        tokens, found = self.backbone.tokens(images), []
        if self.first:
            found.append(self.backbone(tokens)[None])
        if self.sets:
            passed = self.backbone(tokens.repeat(len(self.sets), 1, 1), adapters=side_by_side(self.sets))
            found.append(passed.unflatten(0, (len(self.sets), -1)))
        return torch.cat(found).transpose(0, 1)

    def known(self, images: LabelledImages) -> Tensor:
        """Returns the same features from the cache where possible: adapters of earlier tasks do not change."""
        for number in range(len(self.results), len(self.prototypes)):
            self.results.append(FrozenResults(partial(self.feature, number), self.prototypes.device))
        return torch.stack([each.of(images) for each in self.results], 1)

    def feature(self, number: int, images: Tensor) -> Tensor:
        """Returns the features in one subspace, (batch, width)."""
        adapters = None if number < self.first else self.sets[number - self.first]
        return self.backbone(images, adapters=adapters).float()

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        """Returns the scores, (batch, classes), from the features in all subspaces, (batch, subspaces, width)."""
        with exact(frozen):
            spaces, prototypes = frozen.float().unbind(1), self.prototypes.unbind()
            found = scores(spaces[self.first :], prototypes[self.first :], self.task_of, self.others)
            if self.first:
                found = found + self.plain * (F.normalize(spaces[0], dim=1) @ F.normalize(prototypes[0], dim=1).T)
        return found
