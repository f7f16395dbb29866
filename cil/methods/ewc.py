"""EWC: penalizes changes of weights that are important for old tasks (Kirkpatrick et al., PNAS 2017)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from cil.common.ranges import Count, Positive, Share, Weight
from cil.data.memory import Kept
from cil.method import Batch, Losses, Method, Phase, Task
from cil.modules.heads.linear_host import LinearHost

CHUNK = 16  # images whose gradients are in memory at a time


class Springs(Kept):
    """Stores for each parameter an anchor (its value after the last task) and a weight (its importance)."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names
        self.growing = tuple(f"{what} {name.replace('.', ' ')}" for what in ("anchor", "weight") for name in names)
        for name in self.growing:
            self.register_buffer(name, torch.empty(0))

    def all(self, what: str) -> dict[str, Tensor]:
        return {name: getattr(self, f"{what} {name.replace('.', ' ')}") for name in self.names}

    def put(self, what: str, name: str, value: Tensor) -> None:
        setattr(self, f"{what} {name.replace('.', ' ')}", value.detach().clone())


class EWC(LinearHost, Method):
    """Adds a quadratic penalty on the distance of each weight from its value after the last task. The importance of a weight is
    the diagonal of the Fisher information."""

    divisible = True

    def __init__(
        self, backbone: nn.Module, *, strength: Weight, fisher: Literal["sample", "batch"], images: Count | None, batch: Count,
        cap: Positive | None, combine: Literal["sum", "mean"], decay: Share, columns: Literal["seen", "new"],
    ) -> None:  # fmt: skip
        """`strength`: weight of the penalty. `fisher`: squares the gradient of each `sample`, or of the mean loss of a `batch`,
        which gives values about 1/`batch` as large.

        `images`: size of the random subset of a task's images that the estimate uses; null: all. `cap`: upper bound of an
        importance, for one task and in total. `combine`: add new importances to `decay` times the old ones (`sum`), or
        average them by the numbers of classes (`mean`). `columns`: classes in the cross-entropy, as in finetune.
        """
        super().__init__(backbone)
        self.strength, self.fisher, self.images, self.batch, self.cap = strength, fisher, images, batch, cap
        self.combine, self.decay, self.columns = combine, decay, columns
        learning = {id(p) for p in self.everything()}
        self.springs = Springs([name for name, p in self.network.named_parameters() if id(p) in learning])

    @property
    def network(self) -> nn.Sequential:
        return nn.Sequential(self.backbone, self.head)

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("train", task, task.train, self.everything())]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        task = phase.task
        first = (task.classes if self.columns == "new" else task.rivals).start
        losses = {"ce": F.cross_entropy(self.predict(batch.images)[:, first:], batch.labels - first)}
        if task.index:
            now = dict(self.network.named_parameters())
            losses["drift"] = self.strength * drift(now, self.springs.all("anchor"), self.springs.all("weight"))
        return losses

    def end_task(self, task: Task) -> None:
        if task.last:
            return  # no later task needs the penalty
        batches, single = self.estimation_batches(task), self.fisher == "sample"
        found = importance(self.network, self.springs.names, batches, task.rivals.start, single=single)
        share, most = task.classes.start / len(task.seen), torch.inf if self.cap is None else self.cap
        for name, old in self.springs.all("weight").items():
            new, kept = found[name].clamp_max(most), len(old)
            if kept:
                both = self.decay * old + new[:kept] if self.combine == "sum" else share * old + (1 - share) * new[:kept]
                new = torch.cat([both, new[kept:]])
            self.springs.put("weight", name, new.clamp_max(most))
            self.springs.put("anchor", name, self.network.get_parameter(name))

    def estimation_batches(self, task: Task) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields images and labels of the task in random order, with the evaluation transform."""
        order = torch.randperm(len(task.train_plain))[: self.images]
        for places in order.split(self.batch):
            batch = task.train_plain.batch(places, self.head.weight.device)
            yield batch.images, batch.labels


def importance(
    network: nn.Module, names: Iterable[str], batches: Iterable[tuple[Tensor, Tensor]], first: int = 0, *, single: bool
) -> dict[str, Tensor]:  # fmt: skip
    """Return the mean over images of the squared gradient of log p(label), for the named parameters.

    `network` returns logits and is in evaluation mode, so that images do not depend on one another. The softmax is over the
    classes from `first` on. `single`: square the gradient of each image; otherwise that of a batch, as PyCIL, FACIL and
    Avalanche do, which gives about 1/batch of it.
    """
    own, rest = parted(network, names)

    def loss(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        logits = functional_call(network, {**rest, **weights}, (images,))
        return F.cross_entropy(logits[:, first:].float(), labels - first)

    each = vmap(grad(lambda weights, image, label: loss(weights, image[None], label[None])), in_dims=(None, 0, 0))
    total, count = {name: torch.zeros_like(value) for name, value in own.items()}, 0
    for images, labels in batches:
        count += len(labels)
        if not single:
            for name, found in grad(loss)(own, images, labels).items():
                total[name] += found.square() * len(labels)
            continue
        for some, known in zip(images.split(CHUNK), labels.split(CHUNK)):
            with sdpa_kernel(SDPBackend.MATH):  # the only attention that works with vmap
                gradients = each(own, some, known)
            for name, found in gradients.items():
                total[name] += found.square().sum(0)
    return {name: value / max(count, 1) for name, value in total.items()}


def parted(network: nn.Module, names: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a network into the named parameters and all other parameters and buffers, all detached."""
    chosen, everything = set(names), {**dict(network.named_parameters()), **dict(network.named_buffers())}
    values = {name: value.detach() for name, value in everything.items()}
    return {k: v for k, v in values.items() if k in chosen}, {k: v for k, v in values.items() if k not in chosen}


def drift(now: Mapping[str, Tensor], anchor: Mapping[str, Tensor], weight: Mapping[str, Tensor]) -> Tensor:
    """Return ½ Σ weight · (now − anchor)². If a head has grown, only the rows that the anchor has are counted."""
    parts = [(weight[name] * (now[name][: len(old)] - old).square()).sum() for name, old in anchor.items()]
    return 0.5 * torch.stack(parts).sum()
