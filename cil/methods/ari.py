"""ARI: each task of a batch learns alone, on disturbed backgrounds too, and the updates are fused (Wang et al., ECCV 2022)."""

import copy
import math
from collections.abc import Iterator
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.backbones.inputs import NORMS
from cil.capabilities import HasForeground, require
from cil.common.errors import UserError
from cil.common.ranges import Count, NonNegative, Positive, Rate, Whole
from cil.common.transfer import sent
from cil.data.images import Batch
from cil.data.scenario import Task
from cil.method import Losses, Method, Phase
from cil.modules.growing.interference import disturbed, fused, limits, put
from cil.modules.heads.linear import GrowingLinear
from cil.modules.rehearsal.exemplars import Exemplars
from cil.modules.rehearsal.loss import binary, soft
from cil.optim.schedules import constant


class ARI(Method):
    """An image has the task of its highest score; a copy of the network, adapted to the task's exemplars, answers inside it."""

    def __init__(
        self, backbone: nn.Module, *, memory: Whole, beta: NonNegative, least: Positive, fusion: Literal["adaptive", "last"],
        reset: bool, attack: NonNegative, attack_norm: Literal["data", "imagenet"], attack_future: bool, look_first: bool,
        adapt_epochs: Whole, adapt_lr: Rate, adapt_batch: Count, copies: Literal["all", "chosen"], leaky_chunk: Count | None,
    ) -> None:  # fmt: skip
        """After a batch the weights go exp(-`beta` · share of the classes that are old) of the way from where they were to the
        `fusion` of the tasks' updates: `adaptive`, weights d² + `least` for the distances d of a tensor, or the `last` task's.
        `reset`: each task starts from where the weights were, not from where the task before it left them.

        `attack`: grey levels by which a background is moved, 0 for none; `attack_norm`: of the `data`, or `imagenet`'s mean
        and std whatever the data have; `attack_future`: classes that are yet to come compete in the attack's loss.
        `look_first`: a batch passes once more, which norms remember.

        `adapt_…`: of the copies; 0 epochs for none. `copies`: `all` answer, each inside its task, or only the `chosen` task's,
        which spares time and makes what is counted among a task's own classes the plain network's where the choice was wrong.
        `leaky_chunk`: test images of one task that the released evaluation gives one task together; counted beside.
        """
        super().__init__()
        require(backbone, HasForeground, "ari")
        if leaky_chunk and adapt_epochs and copies == "chosen":
            raise UserError("method.leaky_chunk asks every task's copy; type method.copies=all, or method.leaky_chunk=null")
        self.backbone, self.head = backbone, GrowingLinear(backbone.width)  # its bias stays zero
        self.memory = Exemplars(memory, None, "first")
        self.beta, self.least, self.fusion, self.reset = beta, least, fusion, reset
        self.attack, self.attack_future, self.look_first = attack, attack_future, look_first
        norm = NORMS["imagenet"] if attack_norm == "imagenet" else (backbone.image.mean, backbone.image.std)
        self.limits = partial(limits, attack, *norm)
        self.adapt_epochs, self.adapt_batch, self.copies, self.leaky_chunk = adapt_epochs, adapt_batch, copies, leaky_chunk
        self.adam = partial(torch.optim.Adam, lr=adapt_lr)
        self.tasks: list[slice] = []  # classes of each
        self.adapted = nn.ModuleDict()  # by their phases

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

    def training_steps(self, batch: Batch, phase: Phase) -> Iterator[Losses]:
        """Two for each task of the batch, the clean and the attacked one; what they led to is fused at the end."""
        if phase.name in self.adapted:
            network, classes = self.adapted[phase.name], self.tasks[list(self.adapted).index(phase.name)]
            yield {"adapt": own_loss(network[1], network[0](batch.images), batch.labels, classes)}
            return
        if self.look_first:
            with torch.no_grad():
                self.backbone(batch.images)
        learning, found = self.learning(), []
        base = [parameter.detach().clone() for parameter in learning]
        for classes in self.tasks:
            rows = ((batch.cpu_labels >= classes.start) & (batch.cpu_labels < classes.stop)).nonzero()[:, 0]
            if not len(rows):
                continue
            rows = sent(rows, batch.labels.device)
            if found and self.reset:
                put(learning, base)
            yield from self.steps_of_a_task(batch.images[rows], batch.labels[rows], classes, phase.task)
            found.append([parameter.detach().clone() for parameter in learning])
        share = math.exp(-self.beta * len(phase.task.old) / phase.task.total)
        found = found[-1:] if self.fusion == "last" else found
        put(learning, [fused(old, new, share, self.least) for old, new in zip(base, zip(*found))])

    def steps_of_a_task(self, images: Tensor, labels: Tensor, classes: slice, task: Task) -> Iterator[Losses]:
        features, looked = self.backbone.attended(images)
        yield {"clean": own_loss(self.head, features, labels, classes)}
        if self.attack:
            moved = self.attacked(images, labels, 1 - looked.detach().to(images.dtype).square(), task)
            yield {"attacked": own_loss(self.head, self.backbone(moved), labels, classes)}

    def attacked(self, images: Tensor, labels: Tensor, background: Tensor, task: Task) -> Tensor:
        """The images, moved from a random start to where their classes are told apart less well."""
        most = self.limits(images)
        noise = ((2 * torch.rand_like(images) - 1) * most[0]).requires_grad_()
        among = slice(task.rivals.start, None if self.attack_future else task.rivals.stop)
        loss = F.cross_entropy(self.head(self.backbone(images + noise), among), labels - among.start)
        return disturbed(images, noise.detach(), torch.autograd.grad(loss, noise)[0], background, most)

    # --- tests --------------------------------------------------------------------------------------------------------

    def features(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def predict(self, images: Tensor) -> Tensor:
        """The best score of each task is the plain network's; the others of the task are as far below it as its copy says."""
        logits = self.head(self.features(images), slice(self.tasks[-1].stop))
        best = torch.stack([logits[:, classes].amax(1) for classes in self.tasks], 1)  # (batch, tasks)
        kept = set(self.memory.labels.tolist())
        among = best.argmax(1).cpu() if self.copies == "chosen" else None
        for number, (network, classes) in enumerate(zip(self.adapted.values(), self.tasks)):
            if not kept.intersection(range(classes.start, classes.stop)):
                continue
            rows = torch.arange(len(images)) if self.copies == "all" else (among == number).nonzero()[:, 0]
            if len(rows):
                rows = sent(rows, images.device)
                own = network[1](network[0](images[rows]), classes)
                logits[rows, classes] = own - own.amax(1, keepdim=True) + best[rows, number, None]
        return logits

    def together(self, scores: Tensor) -> Tensor:
        """All images get the task whose best scores are highest on average."""
        task = self.tasks[int(torch.stack([scores[:, classes].amax(1).mean() for classes in self.tasks]).argmax())]
        answers = torch.full_like(scores, -torch.inf)
        answers[:, task] = scores[:, task]
        return answers


def own_loss(head: GrowingLinear, features: Tensor, labels: Tensor, classes: slice) -> Tensor:
    """Each class by itself, among those of the labels' task."""
    return binary(head(features, classes), soft(labels - classes.start, classes.stop - classes.start, 0.0))
