"""LwF: distills the outputs for old classes from the network before the task (Li and Hoiem, TPAMI 2018)."""

from collections.abc import Iterator
from typing import Literal

import torch.nn.functional as F
from torch import nn

from cil.common.ranges import Positive, Weight, Whole
from cil.method import Batch, Losses, Method, Phase, Task
from cil.modules.heads.linear_host import LinearHost
from cil.modules.rehearsal.distillation import softened


class LwF(LinearHost, Method):
    """Trains on the images of the new task only, and keeps the outputs for old classes close to those before the task."""

    divisible = taught = True

    def __init__(
        self, backbone: nn.Module, *, strength: Weight, temperature: Positive, squared: bool, columns: Literal["seen", "new"],
        warm_epochs: Whole,
    ) -> None:  # fmt: skip
        """`columns`: the cross-entropy covers all `seen` classes, or only the `new` ones.

        `strength`: weight of the distillation loss. `squared`: multiply it by the squared `temperature`, as Hinton et al. do
        and implementations of LwF do not. `warm_epochs`: train the head alone first, from the second task on.
        """
        super().__init__(backbone)
        self.factor = strength * (temperature**2 if squared else 1.0)
        self.temperature, self.columns, self.warm_epochs = temperature, columns, warm_epochs

    def phases(self, task: Task) -> Iterator[Phase]:
        if task.index and self.warm_epochs:
            yield Phase("warm", task, task.train, list(self.head.parameters()), self.warm_epochs)
        yield Phase("train", task, task.train, self.everything())

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        task, logits = phase.task, self.predict(batch.images)
        first = (task.classes if self.columns == "new" else task.rivals).start
        losses = {"ce": F.cross_entropy(logits[:, first:], batch.labels - first)}
        old = slice(task.rivals.start, task.classes.start)
        if self.teacher and old.start < old.stop:
            taught = self.teacher(batch.images)[:, old]
            losses["distil"] = self.factor * softened(logits[:, old], taught, self.temperature)
        return losses
