"""ARI: updates the weights for each task of a batch in turn and fuses the updates (Wang et al., ECCV 2022)."""

import copy
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.backbones.base import NORMS
from cil.capabilities import HasForeground, require
from cil.common.errors import UserError
from cil.common.ranges import Count, NonNegative, Positive, Rate, Whole
from cil.common.switches import switches
from cil.common.transfer import channels, sent
from cil.method import Batch, Known, Losses, Method, Phase, Task
from cil.modules.heads.linear import GrowingLinear
from cil.modules.heads.linear_host import LinearHost
from cil.modules.rehearsal.exemplars import Exemplars
from cil.modules.rehearsal.loss import binary, soft
from cil.optim.schedules import constant


@switches
class Attack:
    """The adversarial attack on the background of training images:

    - `attack`: its strength in grey levels; 0: none.
    - `attack_norm`: whose mean and std convert grey levels, those of the `data` or of `imagenet`.
    - `attack_future`: whether classes of future tasks compete in its loss.
    """

    attack: NonNegative
    attack_norm: Literal["data", "imagenet"]
    attack_future: bool


@switches
class Copies:
    """The copies of the network that are adapted to the exemplars of each task:

    - `adapt_epochs`, `adapt_lr`, `adapt_batch`: their training; 0 epochs: no copies.
    - `copies`: `all` copies score an image, each for the classes of its task, or only the copy of the `chosen` (predicted)
      task. The latter is faster, but the accuracy within a known task is that of the plain network where the prediction was
      wrong.
    - `leaky_chunk`: number of test images of one task that the released evaluation assigns to a task together; this accuracy
      is reported separately.
    """

    adapt_epochs: Whole
    adapt_lr: Rate
    adapt_batch: Count
    copies: Literal["all", "chosen"]
    leaky_chunk: Count | None


class ARI(LinearHost, Method):
    """Predicts the task from the highest score, then the class with a copy of the network adapted to that task's exemplars.

    Training also uses images whose background is disturbed by an adversarial attack.
    """

    def __init__(
        self, backbone: nn.Module, *, memory: Whole, beta: NonNegative, least: Positive, fusion: Literal["adaptive", "last"],
        reset: bool, look_first: bool, background: Attack, adapted: Copies,
    ) -> None:  # fmt: skip
        """After a batch the weights move the fraction exp(-`beta` · old classes / all classes) of the way to the fused update.
        `fusion`: the mean of the tasks' updates with weights d² + `least`, where d is the distance that a tensor moved
        (`adaptive`), or the `last` task's update. `reset`: each task starts from the weights before the batch, not from those
        that the previous task left. `look_first`: an extra forward pass of the whole batch updates the running averages of
        batch normalization.
        """
        super().__init__(backbone)  # the bias of its head is not trained and stays zero
        require(backbone, HasForeground, "ari")
        if adapted.leaky_chunk and adapted.adapt_epochs and adapted.copies == "chosen":
            raise UserError(
                "method.leaky_chunk needs the copies of all tasks; type method.copies=all, or method.leaky_chunk=null"
            )
        self.memory = Exemplars(memory, None, "first")
        self.beta, self.least, self.fusion, self.reset = beta, least, fusion, reset
        self.attack, self.attack_future, self.look_first = background.attack, background.attack_future, look_first
        mean, std = NORMS["imagenet"] if background.attack_norm == "imagenet" else (backbone.image.mean, backbone.image.std)
        self.limits = partial(limits, background.attack, mean, std)
        self.adapt_epochs, self.adapt_batch = adapted.adapt_epochs, adapted.adapt_batch
        self.copies, self.leaky_chunk = adapted.copies, adapted.leaky_chunk
        self.adam = partial(torch.optim.Adam, lr=adapted.adapt_lr)
        self.tasks: list[slice] = []  # the classes of each task
        self.adapted = nn.ModuleDict()  # copies of the network by the name of their phase

    def begin_task(self, task: Task) -> None:
        self.tasks.append(slice(task.classes.start, task.classes.stop))
        self.head.grow(task.total if self.attack_future else len(task.seen))
        count = len(self.tasks) if self.adapt_epochs and task.index else 0
        both = nn.Sequential(self.backbone, self.head)
        self.adapted = nn.ModuleDict({f"adapt_{number + 1}": copy.deepcopy(both) for number in range(count)})

    def learning(self) -> list[nn.Parameter]:
        return [*self.backbone.image_parameters(), self.head.weight]

    def phases(self, task: Task) -> Iterator[Phase]:
        yield Phase("train", task, self.memory.joined(task), self.learning())
        for (name, network), classes in zip(self.adapted.items(), self.tasks):
            kept = self.memory.of(task)
            own = kept.take(((kept.labels >= classes.start) & (kept.labels < classes.stop)).nonzero()[:, 0])
            if len(own):
                learning = [*network[0].image_parameters(), network[1].weight]
                yield Phase(name, task, own, learning, self.adapt_epochs, self.adapt_batch, constant, self.adam)

    def end_phase(self, phase: Phase) -> None:
        if phase.name == "train":
            self.memory.choose(phase.task, self.features)
            for network in self.adapted.values():
                network.load_state_dict(nn.Sequential(self.backbone, self.head).state_dict())

    # --- steps --------------------------------------------------------------------------------------------------------

    def training_steps(self, batch: Batch | Known, phase: Phase) -> Iterator[Losses]:
        """Takes a clean and an attacked step for each task of the batch, then fuses the resulting weights."""
        assert isinstance(batch, Batch)  # ARI has no frozen stage, so no features are given
        if phase.name in self.adapted:
            network, classes = self.adapted[phase.name], self.tasks[list(self.adapted).index(phase.name)]
            yield {"adapt": own_loss(network[1], network[0](batch.images), batch.labels, classes)}
            return
        if self.look_first:
            with torch.no_grad():
                self.backbone(batch.images)
        learning = self.learning()
        updated: list[list[Tensor]] = []  # the weights after each task's steps
        base = [parameter.detach().clone() for parameter in learning]
        for classes in self.tasks:
            rows = ((batch.cpu_labels >= classes.start) & (batch.cpu_labels < classes.stop)).nonzero()[:, 0]
            if not len(rows):
                continue
            rows = sent(rows, batch.labels.device)
            if updated and self.reset:
                put(learning, base)
            yield from self.steps_of_a_task(batch.images[rows], batch.labels[rows], classes, phase.task)
            updated.append([parameter.detach().clone() for parameter in learning])
        share = math.exp(-self.beta * len(phase.task.old) / phase.task.total)
        updated = updated[-1:] if self.fusion == "last" else updated
        put(learning, [fused(old, new, share, self.least) for old, new in zip(base, zip(*updated))])

    def steps_of_a_task(self, images: Tensor, labels: Tensor, classes: slice, task: Task) -> Iterator[Losses]:
        features, foreground = self.backbone.attended(images)
        yield {"clean": own_loss(self.head, features, labels, classes)}
        if self.attack:
            moved = self.attacked(images, labels, 1 - foreground.detach().to(images.dtype).square(), task)
            yield {"attacked": own_loss(self.head, self.backbone(moved), labels, classes)}

    def attacked(self, images: Tensor, labels: Tensor, background: Tensor, task: Task) -> Tensor:
        """Returns the images with a perturbed `background`: one step of gradient ascent on the loss from a random start.

        `images`: (batch, 3, height, width); `background`: (batch, 1, height, width), between 0 and 1.
        """
        most = self.limits(images)
        noise = ((2 * torch.rand_like(images) - 1) * most[0]).requires_grad_()
        among = slice(task.rivals.start, None if self.attack_future else task.rivals.stop)
        loss = F.cross_entropy(self.head(self.backbone(images + noise), among), labels - among.start)
        return disturbed(images, noise.detach(), torch.autograd.grad(loss, noise)[0], background, most)

    # --- tests --------------------------------------------------------------------------------------------------------

    def predict(self, images: Tensor) -> Tensor:
        """Takes the best score of each task from the plain network, and the differences within a task from the task's copy."""
        logits = self.head(self.features(images), slice(self.tasks[-1].stop))
        best = torch.stack([logits[:, classes].amax(1) for classes in self.tasks], 1)  # (batch, tasks)
        kept = set(self.memory.labels.tolist())
        chosen = best.argmax(1).cpu() if self.copies == "chosen" else None
        for number, (network, classes) in enumerate(zip(self.adapted.values(), self.tasks)):
            if not kept.intersection(range(classes.start, classes.stop)):
                continue
            rows = torch.arange(len(images)) if chosen is None else (chosen == number).nonzero()[:, 0]
            if len(rows):
                rows = sent(rows, images.device)
                own = network[1](network[0](images[rows]), classes)
                logits[rows, classes] = own - own.amax(1, keepdim=True) + best[rows, number, None]
        return logits

    def together(self, scores: Tensor) -> Tensor:
        """Assigns all images to the task whose best scores are highest on average."""
        task = self.tasks[int(torch.stack([scores[:, classes].amax(1).mean() for classes in self.tasks]).argmax())]
        masked = torch.full_like(scores, -torch.inf)
        masked[:, task] = scores[:, task]
        return masked


def own_loss(head: GrowingLinear, features: Tensor, labels: Tensor, classes: slice) -> Tensor:
    """Returns the binary cross-entropy over the classes of the labels' task."""
    return binary(head(features, classes), soft(labels - classes.start, classes.stop - classes.start, 0.0))


def limits(strength: float, mean: Sequence[float], std: Sequence[float], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `strength` grey levels, black and white in normalised pixel values: (3, 1, 1) each."""
    centre, scale = (channels(tuple(values), like.device)[0].to(like.dtype) for values in (mean, std))
    return strength / 255 / scale, (0 - centre) / scale, (1 - centre) / scale


def disturbed(
    images: Tensor, noise: Tensor, gradient: Tensor, background: Tensor, most: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Take one signed gradient step from `noise`, weighted by the `background` map, and clamp it to `most` (see `limits`)."""
    far, darkest, brightest = most
    moved = ((noise + far * gradient.sign()) * background).clamp(-far, far)
    return (images + moved).clamp(darkest, brightest)


def fused(base: Tensor, found: Sequence[Tensor], share: float, least: float) -> Tensor:
    """Move from `base` by `share` towards the mean of `found`, with weights d² + `least` for distances d from `base`."""
    weights = torch.stack([(own - base).abs().sum() for own in found]).square() + least
    mean = sum(weight * own for weight, own in zip(weights / weights.sum(), found, strict=True))
    return torch.lerp(base, mean, share)


@torch.no_grad()
def put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy the values into the parameters."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
