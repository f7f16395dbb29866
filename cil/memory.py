"""Exemplars: rows of the training split that are kept for later tasks."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from cil.data import LabelledImages, join
from cil.mistakes import Mistake
from cil.scenario import Task


class Memory(nn.Module):
    """At most `total` images, as many of each class: the first of the data set's order (iTAML, ARI, AttriCLIP's CoOp), or of
    an order that the method finds (herding).

    What is kept are rows and labels, so that a checkpoint has no images.
    """

    def __init__(self, total: int) -> None:
        super().__init__()
        if total < 0:
            raise Mistake(f"method.memory={total} is not a whole number from 0 on; type method.memory=1000")
        self.total = total
        self.register_buffer("rows", torch.empty(0, dtype=torch.long))
        self.register_buffer("labels", torch.empty(0, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, task: Task) -> LabelledImages:
        """What is kept of the classes that the task may remember, seen through its view."""
        rows, labels = self.rows.cpu(), self.labels.cpu()
        chosen = (labels >= task.remembered.start) & (labels < task.remembered.stop)
        return replace(task.train, rows=rows[chosen], labels=labels[chosen])

    def joined(self, task: Task) -> LabelledImages:
        """The task's images and what is kept."""
        return join([task.train, self.of(task)])

    def each(self, task: Task) -> int:
        """How many of a class will be kept once the task has been met."""
        return self.total // len(task.remembered)

    def after(self, task: Task, new: LabelledImages | None = None) -> LabelledImages:
        """What will be kept once the task has been met: the same number of each class, the first of them. `new`: the task's
        images in an order of the method's."""
        both, each = join([self.of(task), new or task.train]), self.each(task)
        first = torch.cat([(both.labels == label).nonzero()[:each, 0] for label in both.labels.unique()])
        return both.take(first)

    def keep(self, images: LabelledImages) -> None:
        self.rows, self.labels = images.rows.to(self.rows.device), images.labels.to(self.rows.device)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest) -> None:
        for name in ("rows", "labels"):  # they grow with the tasks
            if prefix + name in state:
                setattr(self, name, torch.empty_like(state[prefix + name], device=self.rows.device))
        super()._load_from_state_dict(state, prefix, *rest)
