"""APER (first named ADAM): tunes adapters on the first task, then uses class means of features (Zhou et al., IJCV 2024)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import TakesAdapters, require
from cil.common.ranges import Count, Fraction, Rate
from cil.data.scenario import Task
from cil.method import Method, Phase
from cil.modules.adapters.first_task import FirstTaskTuned
from cil.modules.heads.cosine import scores


class APER(FirstTaskTuned, Method):
    """Concatenates the features of the frozen backbone with and without adapters, and predicts the nearest class mean.

    The score of a class is the cosine between the image's feature and the mean feature of the class's training images.
    """

    means: Tensor  # (classes seen, 2 * width)

    def __init__(self, backbone: nn.Module, *, bottleneck: Count, scale: Rate, dropout: Fraction) -> None:
        require(backbone, TakesAdapters, "aper")
        super().__init__(backbone, tune=True, bottleneck=bottleneck, scale=scale, dropout=dropout)
        self.divisible = not dropout
        self.register_buffer("means", torch.empty(0, 2 * backbone.width))

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        self.means = torch.cat([self.means, self.means.new_zeros(len(task.classes), self.means.shape[1])])

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("tune", task, task.train, self.learning())] if self.head else []

    def end_task(self, task: Task) -> None:
        features = self.frozen.of(task.train_plain)
        labels = task.train_plain.labels.to(features.device)
        for label in task.classes:
            self.means[label] = features[labels == label].mean(0)

    def frozen_stage(self, images: Tensor) -> Tensor:
        tokens = self.backbone.tokens(images)
        return torch.cat([self.backbone(tokens), self.adapted(tokens)], 1).float()

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        return scores(self.means.new_ones(()), F.normalize(frozen, dim=1), F.normalize(self.means, dim=1))
