"""Nearest class mean on a frozen backbone, without any training (the SimpleCIL row; RanPAC's NCM)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.method import Method, Phase
from cil.scenario import Task

BATCH = 250  # images at a time; the means do not depend on it


class ClassMean(Method):
    """Score of a class: cosine between the image's feature and the mean feature of the class's training images."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("means", torch.empty(0, backbone.width))

    def begin_task(self, task: Task) -> None:
        new = self.means.new_zeros(len(task.classes), self.means.shape[1])
        self.means = torch.cat([self.means, new])

    def phases(self, task: Task) -> list[Phase]:
        return []

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        counts = self.means.new_zeros(len(self.means), 1)
        for batch in task.train_plain.batches(BATCH, self.means.device):
            self.means.index_add_(0, batch.labels, self.features(batch.images).float())
            counts.index_add_(0, batch.labels, torch.ones_like(batch.labels, dtype=counts.dtype)[:, None])
        new = slice(task.classes.start, task.classes.stop)
        self.means[new] /= counts[new]

    def features(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def predict(self, images: Tensor) -> Tensor:
        return self.predict_from(self.frozen_stage(images), lambda: images)

    def frozen_stage(self, images: Tensor) -> Tensor:
        return self.features(images)

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        return F.normalize(frozen.float(), dim=1) @ F.normalize(self.means, dim=1).T
