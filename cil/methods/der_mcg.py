"""DER: one extractor per task (Yan et al., CVPR 2021), and a gate that predicts the task (MCG; Cai et al., CVPR 2023).

The gate is reconstructed from the abstract: its code is not public, and its constants are only in the paper.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from cil.common.ranges import Count, Positive, Weight, Whole
from cil.data.memory import Kept
from cil.data.transforms.views import View
from cil.method import Batch, FrozenResults, LabelledImages, Losses, Method, Phase, Scenario, Task
from cil.modules.heads.linear import GrowingLinear
from cil.modules.rehearsal.distillation import FrozenCopy
from cil.modules.rehearsal.exemplars import IMAGES, Exemplars, Selection
from cil.modules.statistics.features import computed


class DERMCG(Method):
    """Freezes the extractors of old tasks and starts the new one as a copy of the last. One linear head reads the concatenated
    features of all extractors."""

    def __init__(
        self, backbone: nn.Module, *, auxiliary: Weight, align: bool, gate: Literal["none", "features", "logits"],
        gate_learns: Literal["all", "head"], gate_width: Count, centroids: Count, temperature: Positive,
        gate_epochs: Count | None, memory: Whole, per_class: Whole | None, selection: Selection,
    ) -> None:  # fmt: skip
        """`auxiliary`: weight of the loss of an auxiliary head on the newest extractor, which classifies the new classes and
        treats all old classes as one. `align`: after training rescale the head's new rows to the mean length of the old rows
        (PyCIL; the paper trains the head again).

        `gate`: `none` (DER), or the gate weights each extractor's `features` or each task's `logits`. `gate_learns`: train
        `all` of the gate's network, or only its `head`. `gate_width`: size of its embedding. `centroids`: their number per
        task. `temperature`: divides the cosines to the centroids. `gate_epochs`: null trains it as long as the extractor.
        """
        super().__init__()
        self.backbone, self.older = backbone, nn.ModuleList()  # extractors of earlier tasks, frozen
        self.head, self.auxiliary_head = GrowingLinear(backbone.width), GrowingLinear(backbone.width)
        self.auxiliary, self.align, self.gate_epochs = auxiliary, align, gate_epochs
        self.gating = gate
        self.gate = None if gate == "none" else Gate(
            copy.deepcopy(backbone), gate_width, centroids, temperature, learns=gate_learns == "all"
        )  # fmt: skip
        self.memory = Exemplars(memory, per_class, selection)
        self.tasks: list[range] = []
        self.results: list[FrozenResults] = []  # cached features of each extractor

    def suits(self, scenario: Scenario) -> None:
        self.memory.check(scenario)

    def begin_task(self, task: Task) -> None:
        if task.index:
            self.older.append(FrozenCopy(backbone=self.backbone))
            wider = GrowingLinear(self.backbone.width * (1 + len(self.older))).to(self.head.weight.device)
            wider.grow(len(task.seen))
            old = self.head.weight.data
            wider.weight.data[: len(old), : old.shape[1]] = old
            wider.bias.data[: len(old)] = self.head.bias.data
            self.head = wider
            self.auxiliary_head = GrowingLinear(self.backbone.width).to(old.device)
            self.auxiliary_head.grow(1 + len(task.classes))
        else:
            self.head.grow(len(task.seen))
            if self.gate is not None:
                self.gate.body = copy.deepcopy(self.backbone)  # again, since the trainer now counts the images that pass
        self.tasks.append(task.classes)
        if self.gate is not None:
            self.gate.grow(len(task.classes))

    def phases(self, task: Task) -> Iterator[Phase]:
        data, heads = self.memory.joined(task), [*self.head.parameters(), *self.auxiliary_head.parameters()]
        yield Phase("train", task, data, [*self.backbone.image_parameters(), *heads])
        if self.gate is not None:
            yield Phase("gate", task, data, self.gate.learning(), self.gate_epochs)

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        task = phase.task
        if self.gate is not None and phase.name == "gate":
            rivals = next(number for number, classes in enumerate(self.tasks) if classes.start in task.rivals)
            return {"gate": self.gate.loss(batch.images, batch.labels, rivals)}
        parts = self.parts(batch.images)
        first, old = task.rivals.start, task.classes.start
        losses = {"ce": F.cross_entropy(self.head(torch.cat(parts, 1))[:, first:], batch.labels - first)}
        if self.auxiliary and task.index:
            targets = (batch.labels - old + 1).clamp_min(0)  # 0: any old class
            losses["auxiliary"] = self.auxiliary * F.cross_entropy(self.auxiliary_head(parts[-1]), targets)
        return losses

    def begin_epoch(self, phase: Phase, epoch: int) -> None:
        if self.gate is not None and phase.name == "gate":
            self.gate.match(phase.data, phase.task.train_plain.view, self.tasks, (phase.task.index, epoch))

    @torch.no_grad()
    def end_phase(self, phase: Phase) -> None:
        if phase.name == "train" and self.align:
            first, old = phase.task.rivals.start, phase.task.classes.start
            rows = self.head.weight[first:]
            self.head.weight[first:] = as_long_as_before(rows, old - first)

    def end_task(self, task: Task) -> None:
        self.memory.choose(task, self.features)

    # --- answers ------------------------------------------------------------------------------------------------------

    def parts(self, images: Tensor) -> list[Tensor]:
        """Returns the features of each extractor in the order of tasks, (batch, width) each."""
        return [*(extractor(images) for extractor in self.older), self.backbone(images)]

    def features(self, images: Tensor) -> Tensor:
        return torch.cat(self.parts(images), 1)

    def predict(self, images: Tensor) -> Tensor:
        return self.predict_from(self.features(images), lambda: images)

    def known(self, images: LabelledImages) -> Tensor:
        """Returns the features of `images`, (len(images), tasks · width), from the cache where possible.

        An extractor does not change after its own task, so its features of the test images are computed once.
        """
        for number in range(len(self.results), len(self.tasks)):
            self.results.append(FrozenResults(partial(self.part, number), self.head.weight.device))
        return torch.cat([each.of(images) for each in self.results], 1)

    def part(self, number: int, images: Tensor) -> Tensor:
        return self.older[number](images) if number < len(self.older) else self.backbone(images)

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        """Returns the logits, (batch, classes), from the concatenated features, (batch, tasks · width)."""
        if self.gate is None:
            return self.head(frozen)
        weights = self.gate(images())
        if self.gating == "features":
            parts = frozen.split(self.backbone.width, 1)
            return self.head(torch.cat([part * (1 + weights[:, n, None]) for n, part in enumerate(parts)], 1))
        sizes = torch.tensor([len(classes) for classes in self.tasks], device=weights.device)
        return self.head(frozen) * weights.repeat_interleave(sizes, dim=1)


class Gate(Kept):
    """Predicts the task of an image: a network embeds the image near one of the centroids of its task (MCG)."""

    centroid_of: Tensor  # (classes,): the centroid that each class is matched with
    matched_at: Tensor  # (2,): task and epoch of the last matching

    growing = ("centroid_of",)

    def __init__(self, body: nn.Module, width: int, each: int, temperature: float, *, learns: bool) -> None:
        """`each`: the number of centroids per task. `learns`: whether to train the body too, not only the two layers on it."""
        super().__init__()
        self.body, self.each, self.temperature, self.learns = body, each, temperature, learns
        self.head = nn.Sequential(nn.Linear(body.width, width), nn.ReLU(), nn.Linear(width, width))
        self.centroids = nn.Parameter(torch.empty(0, width))  # (tasks · each, width)
        self.register_buffer("centroid_of", torch.empty(0, dtype=torch.long))
        self.register_buffer("matched_at", torch.full((2,), -1))

    def train(self, mode: bool = True) -> "Gate":
        super().train(mode)
        self.body.train(mode and self.learns)
        return self

    def grow(self, classes: int) -> None:
        new = torch.randn(self.each, self.centroids.shape[1]).to(self.centroids)
        self.centroids = nn.Parameter(torch.cat([self.centroids.data, new]))
        self.centroid_of = torch.cat([self.centroid_of, self.centroid_of.new_zeros(classes)])

    def learning(self) -> list[nn.Parameter]:
        body = self.body.image_parameters() if self.learns else ()
        return [*body, *self.head.parameters(), self.centroids]

    def embedded(self, images: Tensor) -> Tensor:
        """Return unit-length embeddings, (batch, width)."""
        return F.normalize(self.head(self.body(images)).float(), dim=1)

    def unit(self) -> Tensor:
        return F.normalize(self.centroids, dim=1)

    def loss(self, images: Tensor, labels: Tensor, first: int) -> Tensor:
        """Return the loss that pulls images to their centroids. Only centroids of the tasks from `first` on are negatives."""
        start = first * self.each
        return attraction(self.embedded(images), self.unit()[start:], self.centroid_of[labels] - start, self.temperature)

    def forward(self, images: Tensor) -> Tensor:
        """Return the weights of the tasks, (batch, tasks); they sum to 1."""
        return weights(self.embedded(images), self.unit(), self.each, self.temperature)

    @torch.no_grad()
    def match(self, images: LabelledImages, view: View, tasks: Sequence[range], now: tuple[int, int]) -> None:
        """Match each class with a centroid of its task by the mean embedding of its images.

        `now` is the task and the epoch: the matching is done once per epoch, also if a run is resumed within it.
        """
        if self.matched_at.tolist() == list(now):
            return
        learned, device = self.training, self.centroids.device
        self.eval()
        (found, labels), centroids = computed(self.embedded, replace(images, view=view), device, IMAGES), self.unit()
        for number, classes in enumerate(tasks):
            known = [label for label in classes if (images.labels == label).any()]
            if known:
                means = torch.stack([found[labels == label].mean(0) for label in known])
                own = slice(number * self.each, (number + 1) * self.each)
                places = matched(F.normalize(means, dim=1), centroids[own]) + own.start
                self.centroid_of[torch.tensor(known, device=device)] = places.to(device)
        self.matched_at.copy_(torch.tensor(now))
        self.train(learned)


def as_long_as_before(weight: Tensor, old: int) -> Tensor:
    """Scale the new rows of `weight`, (classes, width), to the mean norm of the old (WA; DER's second stage in PyCIL)."""
    if not 0 < old < len(weight):
        return weight
    norms = weight.norm(dim=1)
    return torch.cat([weight[:old], weight[old:] * (norms[:old].mean() / norms[old:].mean())])


def matched(prototypes: Tensor, centroids: Tensor) -> Tensor:
    """Return the index of the centroid of each class, (classes,), such that the sum of cosines is maximal.

    `prototypes`: (classes, width) and `centroids`: (centroids, width), all of length 1. If there are more classes than
    centroids, the classes are distributed as evenly as possible.
    """
    rounds = -(-len(prototypes) // len(centroids))
    cost = -(prototypes @ centroids.T).repeat(1, rounds).double().cpu().numpy()
    return torch.from_numpy(linear_sum_assignment(cost)[1]) % len(centroids)


def attraction(embedded: Tensor, centroids: Tensor, own: Tensor, temperature: float) -> Tensor:
    """Return the loss that pulls embeddings, (batch, width), to their `own` centroids and away from all others."""
    return F.cross_entropy(embedded @ centroids.T / temperature, own)


def weights(embedded: Tensor, centroids: Tensor, each: int, temperature: float) -> Tensor:
    """Return the softmax of the best cosine in each task, (batch, tasks). Each task has `each` consecutive centroids."""
    best = (embedded @ centroids.T).unflatten(1, (-1, each)).amax(2)
    return (best / temperature).softmax(1)
