"""EASE: one set of adapters per task, and class prototypes in the feature subspaces of all sets (Zhou et al., CVPR 2024)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import TakesAdapters, require
from cil.common.ranges import Weight
from cil.method import Batch, Losses, Method, Phase, Task
from cil.modules.adapters.parallel import Adapters, AdapterSize
from cil.modules.adapters.subspaces import Subspaces
from cil.modules.heads.cosine import exact
from cil.modules.heads.linear import CosineHead
from cil.modules.statistics.features import class_means, computed

CHUNK = 250  # images times subspaces that pass the backbone at a time


class EASE(Subspaces, Method):
    """Trains a new set of adapters on each task and predicts the nearest class prototype over all subspaces.

    Each set of adapters defines a subspace, in the order of tasks. With `plain` above 0 the backbone without adapters is one
    more subspace, before the others.
    """

    head: CosineHead  # of the newest task, for training only
    prototypes: Tensor  # (subspaces, classes, width)
    task_of: Tensor  # (classes,)

    def __init__(self, backbone: nn.Module, *, size: AdapterSize, others: Weight, plain: Weight) -> None:
        """`others`: weight of the mean cosine in the subspaces other than that of the class's own task. `plain`: weight of the
        cosine in the subspace of the backbone without adapters; 0 leaves it out."""
        require(backbone, TakesAdapters, "ease")
        super().__init__(backbone, size)
        self.divisible = not size.dropout
        self.others, self.plain = others, plain
        self.first = int(plain > 0)  # index of the first subspace with adapters
        self.register_buffer("prototypes", torch.empty(self.first, 0, backbone.width))
        self.register_buffer("task_of", torch.empty(0, dtype=torch.long), persistent=False)
        self.tasks: list[range] = []  # the classes of each task so far

    def begin_task(self, task: Task) -> None:
        self.sets.append(self.new())
        self.head = CosineHead(self.backbone.width, len(task.classes))
        self.prototypes = F.pad(self.prototypes, (0, 0, 0, len(task.classes), 0, 1))
        self.task_of = F.pad(self.task_of, (0, len(task.classes)), value=task.index)
        self.tasks.append(task.classes)

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("train", task, task.train, [*self.sets[-1].parameters(), *self.head.parameters()])]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        logits = self.head(self.backbone(batch.images, adapters=self.sets[-1]))
        return {"ce": F.cross_entropy(logits, batch.labels - phase.task.classes.start)}

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        """Computes the prototypes of new classes in all subspaces, and synthesizes those of old classes in newer subspaces."""
        size = max(1, CHUNK // len(self.prototypes))
        features, labels = computed(self.everywhere, task.train_plain, self.prototypes.device, size)
        self.prototypes[:, task.classes.start :] = class_means(features, labels, task.classes).transpose(0, 1)
        measured = self.prototypes[self.first :]
        with exact(measured):
            for own, old in enumerate(self.tasks[:-1]):
                for newer in range(own + 1, len(self.tasks)):
                    among = measured[:, self.tasks[newer].start :]
                    for label in old:
                        measured[newer, label] = synthesised(measured[own, label], among[own], among[newer])

    def spaces(self) -> list[Adapters | None]:
        return [*[None] * self.first, *self.sets]

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        """Returns the scores, (batch, classes), from the features in all subspaces, (batch, subspaces, width)."""
        with exact(frozen):
            spaces, prototypes = frozen.float().unbind(1), self.prototypes.unbind()
            found = scores(spaces[self.first :], prototypes[self.first :], self.task_of, self.others)
            if self.first:
                found = found + self.plain * (F.normalize(spaces[0], dim=1) @ F.normalize(prototypes[0], dim=1).T)
        return found


def synthesised(own: Tensor, others_own: Tensor, others: Tensor) -> Tensor:
    """Return the prototype of an old class in a newer subspace, (width',): a mean of newer classes, weighted by similarity.

    `own`: (width,), its prototype in the subspace of its own task; `others_own`: (classes, width), the newer classes in that
    subspace; `others`: (classes, width'), the same newer classes in the newer subspace.
    """
    return F.cosine_similarity(others_own, own[None]).softmax(0) @ others


def scores(features: Sequence[Tensor], prototypes: Sequence[Tensor], task_of: Tensor, others: float) -> Tensor:
    """Return scores, (batch, classes): the cosine in the subspace of a class's task plus `others` · the mean over the rest.

    `features[s]`: (batch, width), `prototypes[s]`: (classes, width) in subspace s; `task_of`: (classes,).
    """
    cosines = torch.stack([F.normalize(f, dim=1) @ F.normalize(p, dim=1).T for f, p in zip(features, prototypes, strict=True)])
    own = cosines.gather(0, task_of[None, None].expand(1, *cosines.shape[1:]))[0]
    if len(cosines) == 1:
        return own
    return own + others / (len(cosines) - 1) * (cosines.sum(0) - own)
