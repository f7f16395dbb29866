"""Nearest class mean on a frozen backbone, without any training (SimpleCIL; the NCM baseline of RanPAC)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.method import Method, Phase, Task
from cil.modules.heads.cosine import scores
from cil.modules.heads.frozen_images import FrozenImages
from cil.modules.statistics.features import class_means


class ClassMean(FrozenImages, Method):
    """Scores a class by the cosine between the image's feature and the mean feature of the class's training images."""

    divisible = True
    means: Tensor  # (classes seen, width)

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("means", torch.empty(0, backbone.width))

    def begin_task(self, task: Task) -> None:
        new = self.means.new_zeros(len(task.classes), self.means.shape[1])
        self.means = torch.cat([self.means, new])

    def phases(self, task: Task) -> list[Phase]:
        return []

    def end_task(self, task: Task) -> None:
        self.means[task.classes.start :] = class_means(*self.of_task(task), task.classes)

    def features(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        return scores(self.means.new_ones(()), F.normalize(frozen, dim=1), F.normalize(self.means, dim=1))
