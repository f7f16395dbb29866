"""A network that learns whole, with a linear head: what most rows of the literature start from."""

from torch import Tensor, nn

from cil.data.scenario import Task
from cil.modules.heads.linear import GrowingLinear
from cil.modules.rehearsal.frozen_copy import FrozenCopy


class LinearHost(nn.Module):
    """Every weight of the backbone learns, and a head over the classes seen, which grows with each task."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, GrowingLinear(backbone.width)

    def begin_task(self, task: Task) -> None:
        self.head.grow(len(task.seen))

    def everything(self) -> list[nn.Parameter]:
        return [*self.backbone.image_parameters(), *self.head.parameters()]

    def features(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def predict(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class Teacher(FrozenCopy):
    """The logits that a host gave before its head grew."""

    def __init__(self, host: LinearHost) -> None:
        super().__init__(backbone=host.backbone, head=host.head)

    def answer(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))
