"""Joint training on the images of all tasks: the upper bound."""

import copy

import torch.nn.functional as F
from torch import nn

from cil.data.images import join
from cil.method import Batch, LabelledImages, Losses, Method, Phase, Task
from cil.modules.heads.linear import GrowingLinear
from cil.modules.heads.linear_host import LinearHost


class Joint(LinearHost, Method):
    """Trains once on the images of all tasks, after the last task has arrived.

    With `curve: true` it also trains after every earlier task, each time from the initial weights. This gives an upper bound
    for each point of the accuracy curve, at (T + 1) / 2 times the cost for T equal tasks. The final accuracy is the same.
    """

    divisible = True

    def __init__(self, backbone: nn.Module, *, curve: bool) -> None:
        super().__init__(backbone)
        self.curve = curve
        self._initial = copy.deepcopy(backbone.state_dict())  # not in the checkpoint: a resumed run loads it again
        self._met: list[LabelledImages] = []

    def begin_task(self, task: Task) -> None:
        self._met.append(task.train)
        self.backbone.load_state_dict(self._initial)
        self.head = GrowingLinear(self.backbone.width).to(self.head.weight.device)
        super().begin_task(task)

    def answers(self, task: Task) -> bool:
        return self.curve or task.last

    def phases(self, task: Task) -> list[Phase]:
        if not self.answers(task):
            return []
        return [Phase("train", task, join(self._met), self.everything())]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        return {"ce": F.cross_entropy(self.predict(batch.images), batch.labels)}
