"""A backbone with a linear head, the base of most rehearsal and regularisation methods."""

from torch import Tensor, nn

from cil.method import Task
from cil.modules.heads.linear import GrowingLinear
from cil.modules.rehearsal.distillation import FrozenCopy


class LinearHost(nn.Module):
    """Has a linear head that grows with each task. What is trained, the method says; `everything` is backbone and head."""

    taught = False  # whether the network as it was before the task, `teacher`, is kept from the second task on

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, GrowingLinear(backbone.width)
        self.teacher: FrozenCopy | None = None  # returns the logits of the old classes

    def begin_task(self, task: Task) -> None:
        if self.taught and task.index:
            self.teacher = FrozenCopy(backbone=self.backbone, head=self.head)
        self.head.grow(len(task.seen))

    def everything(self) -> list[nn.Parameter]:
        return [*self.backbone.image_parameters(), *self.head.parameters()]

    def features(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def predict(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))
