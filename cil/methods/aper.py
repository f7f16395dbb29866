"""APER (first named ADAM): tunes adapters on the first task, then uses class means of features (Zhou et al., IJCV 2024)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import TakesAdapters, require
from cil.method import Method, Task
from cil.modules.adapters.first_task import FirstTaskTuned
from cil.modules.adapters.parallel import AdapterSize
from cil.modules.heads.cosine import scores
from cil.modules.statistics.features import class_means


class APER(FirstTaskTuned, Method):
    """Concatenates the features of the frozen backbone with and without adapters, and predicts the nearest class mean.

    The score of a class is the cosine between the image's feature and the mean feature of the class's training images.
    """

    means: Tensor  # (classes seen, 2 * width)

    def __init__(self, backbone: nn.Module, *, size: AdapterSize) -> None:
        require(backbone, TakesAdapters, "aper")
        super().__init__(backbone, size)
        self.register_buffer("means", torch.empty(0, 2 * backbone.width))

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        self.means = torch.cat([self.means, self.means.new_zeros(len(task.classes), self.means.shape[1])])

    def end_task(self, task: Task) -> None:
        self.means[task.classes.start :] = class_means(*self.of_task(task), task.classes)

    def frozen_stage(self, images: Tensor) -> Tensor:
        tokens = self.backbone.tokens(images)
        return torch.cat([self.backbone(tokens), self.adapted(tokens)], 1).float()

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        return scores(self.means.new_ones(()), F.normalize(frozen, dim=1), F.normalize(self.means, dim=1))
