"""EWC: what mattered for old tasks is held by springs (Kirkpatrick et al., PNAS 2017)."""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.common.ranges import Count, Positive, Share, Weight
from cil.data.images import Batch
from cil.data.memory import Kept
from cil.data.scenario import Task
from cil.method import Losses, Method, Phase
from cil.modules.heads.linear_host import LinearHost
from cil.modules.statistics.fisher import drift, per_batch, per_sample


class Springs(Kept):
    """Where each parameter was, and how much it matters that it stays there."""

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
    """A quadratic penalty on the way from the weights after the last task, by the diagonal of the Fisher information."""

    divisible = True

    def __init__(
        self, backbone: nn.Module, *, strength: Weight, fisher: Literal["sample", "batch"], images: Count | None, batch: Count,
        cap: Positive | None, combine: Literal["sum", "mean"], decay: Share, columns: Literal["seen", "new"],
    ) -> None:  # fmt: skip
        """`fisher`: squared gradients of each `sample`, or of the mean of a `batch` of that many (about 1/batch of it).

        `images`: how many of a task's are looked at, drawn by chance; null: all. `cap`: the most that a weight may
        matter, in one task and in all.
        `combine`: old and new are added, the old times `decay` (`sum`), or averaged by the numbers of classes (`mean`).
        `columns`: the cross-entropy's, as in finetune.
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
            return  # nothing will be learned that could drift
        estimate = per_sample if self.fisher == "sample" else per_batch
        found = estimate(self.network, self.springs.names, self.looked_at(task), task.rivals.start)
        share, most = task.classes.start / len(task.seen), torch.inf if self.cap is None else self.cap
        for name, old in self.springs.all("weight").items():
            new, kept = found[name].clamp_max(most), len(old)
            if kept:
                both = self.decay * old + new[:kept] if self.combine == "sum" else share * old + (1 - share) * new[:kept]
                new = torch.cat([both, new[kept:]])
            self.springs.put("weight", name, new.clamp_max(most))
            self.springs.put("anchor", name, self.network.get_parameter(name))

    def looked_at(self, task: Task) -> Iterator[tuple[Tensor, Tensor]]:
        """The task's images as tests see them, in an order by chance."""
        order = torch.randperm(len(task.train_plain))[: self.images]
        for places in order.split(self.batch):
            batch = task.train_plain.batch(places, self.head.weight.device)
            yield batch.images, batch.labels
