"""Joint training: the upper bound."""

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from cil.data import Batch, LabelledImages, join
from cil.method import Losses, Method, Phase
from cil.modules.heads import GrowingLinear
from cil.scenario import Task


class Joint(Method):
    """At each task, start again from the initial weights and train on all images met so far.

    The last row is thus exactly one joint run over all classes; the earlier rows are the bound for the curve.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = GrowingLinear(backbone.width)
        self._initial = copy.deepcopy(backbone.state_dict())  # rebuilt from the weights' file, so not in a checkpoint
        self._met: list[LabelledImages] = []

    def begin_task(self, task: Task) -> None:
        self._met.append(task.train)
        self.backbone.load_state_dict(self._initial)
        self.head = GrowingLinear(self.backbone.width).to(self.head.weight.device)
        self.head.grow(len(task.seen))

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("train", task, join(self._met), [*self.backbone.image_parameters(), *self.head.parameters()])]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        return {"ce": F.cross_entropy(self.predict(batch.images), batch.labels)}

    def features(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def predict(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))
