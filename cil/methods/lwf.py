"""LwF: the network teaches itself what it knew (Li and Hoiem, TPAMI 2018)."""

from collections.abc import Iterator
from typing import Literal

import torch.nn.functional as F
from torch import nn

from cil.common.ranges import Positive, Weight, Whole
from cil.data.images import Batch
from cil.data.scenario import Task
from cil.method import Losses, Method, Phase
from cil.modules.heads.linear_host import LinearHost, Teacher
from cil.modules.rehearsal.distillation import softened


class LwF(LinearHost, Method):
    """On the images of the new task, old classes should be answered as before it."""

    divisible = True

    def __init__(
        self, backbone: nn.Module, *, strength: Weight, temperature: Positive, squared: bool, columns: Literal["seen", "new"],
        warm_epochs: Whole,
    ) -> None:  # fmt: skip
        """`columns`: the new classes compete with the `seen` ones in the cross-entropy, or only with one another (`new`).

        `squared`: the teacher's loss times the square of the temperature, as Hinton has it and none of LwF's codes.
        `warm_epochs`: the head learns alone before each later task.
        """
        super().__init__(backbone)
        self.factor = strength * (temperature**2 if squared else 1.0)
        self.temperature, self.columns, self.warm_epochs = temperature, columns, warm_epochs
        self.teacher: Teacher | None = None  # of all tasks but the first

    def begin_task(self, task: Task) -> None:
        if task.index:
            self.teacher = Teacher(self)
        super().begin_task(task)

    def phases(self, task: Task) -> Iterator[Phase]:
        if task.index and self.warm_epochs:
            yield Phase("warm", task, task.train, list(self.head.parameters()), self.warm_epochs)
        yield Phase("train", task, task.train, self.everything())

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        task, logits = phase.task, self.predict(batch.images)
        first = (task.classes if self.columns == "new" else task.rivals).start
        losses = {"ce": F.cross_entropy(logits[:, first:], batch.labels - first)}
        old = slice(task.rivals.start, task.classes.start)
        if old.start < old.stop:
            taught = self.teacher(batch.images)[:, old]
            losses["distil"] = self.factor * softened(logits[:, old], taught, self.temperature)
        return losses
