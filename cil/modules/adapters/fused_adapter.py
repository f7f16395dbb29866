"""A linear adapter on frozen CLIP features, trained with pseudo-features of old classes and merged after each task.

RAPF (Huang et al., ECCV 2024) and AWPF train it in the same way. They differ in how they merge the old and the new adapter.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.common.errors import UserError
from cil.common.ranges import Count, Positive, Range, Weight
from cil.common.switches import switches
from cil.common.transfer import sent
from cil.method import Known, Phase, Scenario, Task
from cil.modules.heads.cosine import exact, scores
from cil.modules.heads.frozen_images import FrozenImages
from cil.modules.statistics.gaussians import Gaussians
from cil.modules.text import ClassTexts

PER_CLASS, PER_PAIR = 10, 20  # pseudo-features, to be multiplied by beta
AHEAD = 16384  # pseudo-features that are drawn at a time, for several steps
Cosine = Annotated[float, Range(0, 2, example=0.5)]  # a difference of cosines
Start = Literal["random", "identity"]


class Drawn(NamedTuple):
    """The inputs of a training step. All random numbers are already drawn."""

    features: Tensor  # (rows, width): of images, then pseudo-features of old classes
    labels: Tensor  # (rows,)
    near: Tensor  # (pairs, count, width): pseudo-features of old classes that have a near new class


@switches
class OldClasses:
    """How old classes are rehearsed with pseudo-features:

    - `classes_drawn`: number of old classes that join each batch, in turn, with int(10·`beta`) pseudo-features each.
    - `shrinkage`: whether their covariances are shrunk.
    - `hinge`: weight of the loss that keeps int(20·`beta`) pseudo-features of an old class nearer to its text than to the text
      of a new class, by `margin`, if the two texts are less than `threshold` apart.
    """

    classes_drawn: Count
    beta: Positive
    shrinkage: bool
    hinge: Weight
    margin: Cosine
    threshold: Cosine


class FusedAdapter(FrozenImages, nn.Module):
    """logit of a class = scale · cos(adapter · feature, text of the class). A method overrides `merged`."""

    old: Tensor  # the adapter before this task
    texts: Tensor  # (classes seen, width), normalised

    def __init__(self, backbone: nn.Module, *, class_texts: ClassTexts, old_classes: OldClasses, start: Start) -> None:
        """`start`: the adapter before the first task, `random` or the `identity`, which answers as continual_clip."""
        super().__init__()
        classes_drawn, beta = old_classes.classes_drawn, old_classes.beta
        if int(PER_CLASS * beta) < 1:
            raise UserError(f"method.classes_drawn={classes_drawn} method.beta={beta} sample no pseudo-features for old "
                            "classes; type method.classes_drawn=2 method.beta=1.0")  # fmt: skip
        self.backbone, self.class_texts, self.start = backbone, class_texts, start
        self.classes_drawn, self.per_class, self.per_pair = classes_drawn, int(PER_CLASS * beta), int(PER_PAIR * beta)
        self.hinge, self.margin, self.threshold = old_classes.hinge, old_classes.margin, old_classes.threshold
        width = backbone.width
        self.adapter = nn.Parameter(torch.zeros(width, width))
        self.register_buffer("old", torch.empty(width, width))
        self.register_buffer("texts", torch.empty(0, width))
        self.gaussians = Gaussians(width, shrinkage=old_classes.shrinkage)
        self.tasks: list[range] = []  # the classes of each task seen
        self.compare(torch.empty(0, 2, dtype=torch.long))
        self.turn = torch.empty(0, dtype=torch.long)  # old classes in the order of this epoch
        self._seed = self._first = 0  # the seed of this epoch; the first step of the current block of draws
        self._block: tuple[Tensor, ...] = ()

    # --- training -----------------------------------------------------------------------------------------------------

    def suits(self, scenario: Scenario) -> None:
        self.class_texts.check(self.backbone, scenario)

    @torch.no_grad()
    def begin_task(self, task: Task) -> None:
        self.tasks.append(task.classes)
        if task.index == 0:  # as torch's linear layers; drawn here, so that runs trained together get equal values
            bound = len(self.adapter) ** -0.5
            if self.start == "random":
                self.adapter.copy_(torch.empty(self.adapter.shape).uniform_(-bound, bound))
            else:
                self.adapter.copy_(torch.eye(len(self.adapter)))
        self.old.copy_(self.adapter)
        self.gaussians.grow(len(task.seen))
        self.texts = torch.cat([self.texts, self.class_texts.encoded(self.backbone, task.names)])
        if self.hinge:
            self.compare(near_pairs(self.texts, task.classes.start, self.threshold))

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("train", task, task.train, [self.adapter])]

    def compare(self, pairs: Tensor) -> None:
        """Store the old and new classes whose texts are near, (pairs, 2): on the CPU for sampling, on the device for losses."""
        self.pairs, self._pairs = pairs.cpu(), pairs.T.to(self.texts.device)

    def begin_epoch(self, phase: Phase, epoch: int) -> None:
        self.turn = torch.randperm(phase.task.classes.start)
        self._seed, self._block = int(torch.randint(2**62, ())), ()

    def losses_from(self, known: Known, phase: object) -> dict[str, Tensor]:
        alone = Drawn(*(part[None] for part in self.inputs(known, phase)))
        losses = self.losses_of([self], {"adapter": self.adapter[None]}, {}, alone, phase)
        return {name: loss[0] for name, loss in losses.items()}

    def only_alone(self) -> str | None:
        return None

    def inputs(self, known: Known, phase: object) -> Drawn:
        """Return the features of the images and sample pseudo-features of old classes for this step."""
        if not len(self.turn):
            return Drawn(known.frozen, known.labels, known.frozen.new_empty(0, self.per_pair, known.frozen.shape[1]))
        labels, features, near = self.old_of(known.step)
        both = torch.cat([known.frozen, features.flatten(0, 1)])
        return Drawn(both, torch.cat([known.labels, labels.repeat_interleave(self.per_class)]), near)

    def old_of(self, step: int) -> tuple[Tensor, ...]:
        """Return old classes, (classes,), their pseudo-features, (classes, count, width), and those of near pairs for a step.

        Several steps are sampled at a time. The seed depends only on the epoch and the block of steps.
        """
        size = max(1, AHEAD // (self.classes_drawn * self.per_class + len(self.pairs) * self.per_pair))
        first = step - step % size
        if not self._block or self._first != first:
            places = torch.arange(first * self.classes_drawn, (first + size) * self.classes_drawn) % len(self.turn)
            labels, random = self.turn[places], torch.Generator().manual_seed(self._seed + first)
            features = self.gaussians.sample(labels, self.per_class, random).unflatten(0, (size, self.classes_drawn))
            near = self.gaussians.sample(self.pairs[:, 0].repeat(size), self.per_pair, random)
            self._first = first
            near = near.view(size, len(self.pairs), *near.shape[1:])
            self._block = sent(labels, features.device).view(size, -1), features, near
        return tuple(part[step - first] for part in self._block)

    def losses_of(self, runs: Sequence, learned: dict, settings: dict, drawn: Drawn, phase: object) -> dict[str, Tensor]:
        """Return the losses of several runs, (runs,) each, from their stacked adapters and inputs."""
        adapters, drawn = learned["adapter"], Drawn(*drawn)
        with exact(adapters):
            texts = self.texts.expand(len(adapters), -1, -1)
            logits = self.backbone.logit_scale.float() * torch.bmm(adapted(drawn.features, adapters), texts.mT)
            each = F.cross_entropy(logits.flatten(0, 1), drawn.labels.flatten(), reduction="none")
            losses = {"ce": each.view(len(adapters), -1).mean(1)}
            if drawn.near.shape[1]:
                old, new = self._pairs
                closer = self.texts[new] - self.texts[old]  # the direction from the own text to the new one
                images = adapted(drawn.near.flatten(1, 2), adapters).view_as(drawn.near)
                short = (self.margin + (images * closer[:, None]).sum(3)).clamp_min(0)
                losses["hinge"] = self.hinge * short.flatten(1).mean(1)
        return losses

    # --- after training -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        """Store the statistics of the unadapted features, then merge. Tests and the next task use the merged adapter."""
        features, labels = self.of_task(task)
        self.gaussians.remember(features, labels, task.classes)
        if task.index:
            with exact(features):
                self.adapter.copy_(self.merged(self.old.double(), self.adapter.double()))

    def merged(self, old: Tensor, new: Tensor) -> Tensor:
        """Return the merged adapter in double precision. By default this is the new one."""
        return new

    def embedded(self, frozen: Tensor) -> Tensor:
        """Return adapted features, (images, width), normalised, to be compared with texts."""
        with exact(frozen):
            return F.normalize(frozen @ self.adapter.T, dim=1)

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        return scores(self.backbone.logit_scale, self.embedded(frozen), self.texts)


def adapted(features: Tensor, adapters: Tensor) -> Tensor:
    """Apply the adapter of each run to its features, (runs, rows, width), and normalise."""
    return F.normalize(torch.bmm(features, adapters.mT), dim=2)


def near_pairs(texts: Tensor, first_new: int, threshold: float) -> Tensor:
    """Return old and new classes whose normalised texts are less than `threshold` apart, (pairs, 2), sorted by old class."""
    near = torch.cdist(texts[:first_new].double(), texts[first_new:].double()) < threshold
    return near.nonzero() + torch.tensor([0, first_new], device=texts.device)
