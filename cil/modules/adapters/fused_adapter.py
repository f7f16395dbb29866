"""A linear map behind a frozen CLIP, trained on old classes' normal distributions and merged with itself after each task.

RAPF and AWPF train it alike (Huang et al., ECCV 2024) and differ in how the old and the new map become one.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.common.errors import UserError
from cil.common.ranges import Range
from cil.common.transfer import sent
from cil.data.frozen_features import Known
from cil.data.images import Batch
from cil.data.scenario import Task
from cil.modules.heads.cosine import exact, scores
from cil.modules.heads.frozen_images import FrozenImages
from cil.modules.statistics.gaussians import Gaussians
from cil.modules.text.names import written
from cil.modules.text.templates import templates as named

PER_CLASS, PER_PAIR = 10, 20  # pseudo-features, times beta
AHEAD = 16384  # of them drawn at a time, for the steps to come
Cosine = Annotated[float, Range(0, 2, example=0.5)]  # a difference of cosines


class Drawn(NamedTuple):
    """What a step learns from; no chance is left in it."""

    features: Tensor  # (rows, width): of images, then of old classes
    labels: Tensor  # (rows,)
    near: Tensor  # (pairs, count, width): of old classes that have a new neighbour


class FusedAdapter(FrozenImages, nn.Module):
    """logit of a class = scale · cos(adapter · feature, its text). A method adds `phases` and says how maps are `merged`."""

    def __init__(
        self, backbone: nn.Module, *, templates: str | Sequence[str], underscores: bool, classes_drawn: int, beta: float,
        shrinkage: bool, hinge: float, margin: float, threshold: float,
    ) -> None:  # fmt: skip
        """`templates`, `underscores`: the texts of classes, as in continual_clip.

        `classes_drawn` old classes join a batch, in turn, with int(10·`beta`) pseudo-features each; `shrinkage`: of
        their covariances. `hinge`: the weight of the loss that holds int(20·`beta`) pseudo-features of an old class nearer
        to its text than to that of a new class, by `margin`, where the two texts are less than `threshold` apart.
        """
        super().__init__()
        if int(PER_CLASS * beta) < 1:
            raise UserError(f"method.classes_drawn={classes_drawn} method.beta={beta} draw nothing of old classes; type "
                            "method.classes_drawn=2 method.beta=1.0")  # fmt: skip
        self.backbone, self.templates, self.underscores = backbone, named(templates), underscores
        self.classes_drawn, self.per_class, self.per_pair = classes_drawn, int(PER_CLASS * beta), int(PER_PAIR * beta)
        self.hinge, self.margin, self.threshold = hinge, margin, threshold
        width = backbone.width
        self.adapter = nn.Parameter(torch.zeros(width, width))
        self.register_buffer("old", torch.empty(width, width))  # the adapter before this task
        self.register_buffer("texts", torch.empty(0, width))  # (classes seen, width), normalised
        self.gaussians = Gaussians(width, shrinkage=shrinkage)
        self.tasks: list[range] = []  # the classes of each task met
        self.compare(torch.empty(0, 2, dtype=torch.long))
        self.turn = torch.empty(0, dtype=torch.long)  # old classes in this epoch's order
        self._seed = self._first = 0  # of the epoch's draws; the first step of the block that is drawn
        self._block: tuple[Tensor, ...] = ()

    # --- training -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin_task(self, task: Task) -> None:
        self.tasks.append(task.classes)
        if task.index == 0:  # as torch draws a linear layer; here, so that runs that share a backbone draw the same
            bound = len(self.adapter) ** -0.5
            self.adapter.copy_(torch.empty(self.adapter.shape).uniform_(-bound, bound))
        self.old.copy_(self.adapter)
        self.gaussians.grow(len(task.seen))
        texts = [template.format(name) for name in written(task.names, self.underscores) for template in self.templates]
        encoded = F.normalize(self.backbone.encode_text(texts).float(), dim=1).view(len(task.names), len(self.templates), -1)
        self.texts = torch.cat([self.texts, F.normalize(encoded.mean(1), dim=1)])
        if self.hinge:
            self.compare(near_pairs(self.texts, task.classes.start, self.threshold))

    def compare(self, pairs: Tensor) -> None:
        """(pairs, 2): old and new classes whose texts are near. Kept on the CPU for what is drawn, on the device for losses."""
        self.pairs, self._pairs = pairs.cpu(), pairs.T.to(self.texts.device)

    def begin_epoch(self, phase: object, epoch: int) -> None:
        self.turn = torch.randperm(phase.task.classes.start)
        self._seed, self._block = int(torch.randint(2**62, ())), ()

    def training_step(self, batch: Batch, phase: object) -> dict[str, Tensor]:
        return self.losses_from(Known(self.frozen_stage(batch.images).detach(), batch.labels, batch.step), phase)

    def losses_from(self, known: Known, phase: object) -> dict[str, Tensor]:
        alone = Drawn(*(part[None] for part in self.drawn(known, phase)))
        return {name: loss[0] for name, loss in self.losses_of(self.adapter[None], alone).items()}

    def drawn(self, known: Known, phase: object) -> Drawn:
        """Of the images, of the old classes whose turn it is, and of those with a neighbour among the new."""
        if not len(self.turn):
            return Drawn(known.frozen, known.labels, known.frozen.new_empty(0, self.per_pair, known.frozen.shape[1]))
        labels, features, near = self.old_of(known.step)
        both = torch.cat([known.frozen, features.flatten(0, 1)])
        return Drawn(both, torch.cat([known.labels, labels.repeat_interleave(self.per_class)]), near)

    def old_of(self, step: int) -> tuple[Tensor, ...]:
        """For a step of this epoch: old classes (classes,), their features and those of the near pairs, (…, count, width).

        Several steps are drawn at a time, from a stream that the epoch and the block decide.
        """
        size = max(1, AHEAD // (self.classes_drawn * self.per_class + len(self.pairs) * self.per_pair))
        first = step - step % size
        if not self._block or self._first != first:
            places = torch.arange(first * self.classes_drawn, (first + size) * self.classes_drawn) % len(self.turn)
            labels, random = self.turn[places], torch.Generator().manual_seed(self._seed + first)
            features = self.gaussians.sample(labels, self.per_class, random).unflatten(0, (size, self.classes_drawn))
            near = self.gaussians.sample(self.pairs[:, 0].repeat(size), self.per_pair, random)
            self._first = first
            self._block = (
                sent(labels, features.device).view(size, -1),
                features,
                near.view(size, len(self.pairs), *near.shape[1:]),
            )
        return tuple(part[step - first] for part in self._block)

    def losses_of(self, adapters: Tensor, drawn: Drawn) -> dict[str, Tensor]:
        """Losses of several runs, (runs,) each: from their adapters and what was drawn for them, one behind another."""
        with exact(adapters):
            texts = self.texts.expand(len(adapters), -1, -1)
            logits = self.backbone.logit_scale.float() * torch.bmm(adapted(drawn.features, adapters), texts.mT)
            each = F.cross_entropy(logits.flatten(0, 1), drawn.labels.flatten(), reduction="none")
            losses = {"ce": each.view(len(adapters), -1).mean(1)}
            if drawn.near.shape[1]:
                old, new = self._pairs
                closer = self.texts[new] - self.texts[old]  # to the new class than to its own
                images = adapted(drawn.near.flatten(1, 2), adapters).view_as(drawn.near)
                short = (self.margin + (images * closer[:, None]).sum(3)).clamp_min(0)
                losses["hinge"] = self.hinge * short.flatten(1).mean(1)
        return losses

    # --- after training -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        """Statistics of the features as they come, then the merge: tests see the merged map, and the next task begins at it."""
        features = self.frozen.of(task.train_plain)
        labels = task.train_plain.labels.to(features.device)
        with exact(features):
            for label in task.classes:
                self.gaussians.remember(label, features[labels == label])
            if task.index:
                self.adapter.copy_(self.merged(self.old.double(), self.adapter.double()))

    def merged(self, old: Tensor, new: Tensor) -> Tensor:
        """In double precision. The new one as it is, unless a method says otherwise."""
        return new

    def embedded(self, frozen: Tensor) -> Tensor:
        """(images, width), normalised: where images and texts are compared."""
        with exact(frozen):
            return F.normalize(frozen @ self.adapter.T, dim=1)

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        return scores(self.backbone.logit_scale, self.embedded(frozen), self.texts)


def adapted(features: Tensor, adapters: Tensor) -> Tensor:
    """(runs, rows, width) behind the adapter of each run, normalised."""
    return F.normalize(torch.bmm(features, adapters.mT), dim=2)


def near_pairs(texts: Tensor, first_new: int, threshold: float) -> Tensor:
    """(pairs, 2): old and new classes whose normalised texts are less than `threshold` apart, by the old one."""
    return (torch.cdist(texts[:first_new].double(), texts[first_new:].double()) < threshold).nonzero() + texts.new_tensor(
        [0, first_new], dtype=torch.long
    )
