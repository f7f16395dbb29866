"""The common part of APER and RanPAC: adapters trained on the first task with a cosine head, and frozen afterwards."""

import torch.nn.functional as F
from torch import Tensor, nn

from cil.data.images import Batch
from cil.data.scenario import Task
from cil.modules.adapters.parallel import Adapters
from cil.modules.heads.frozen_images import FrozenImages
from cil.modules.heads.linear import CosineHead


class FirstTaskTuned(FrozenImages, nn.Module):
    """Trains adapters on the first task only. The frozen stage is first used after that, so its outputs can be cached."""

    def __init__(self, backbone: nn.Module, *, tune: bool, bottleneck: int, scale: float, dropout: float) -> None:
        """`tune`: if false, the backbone has no adapters and nothing is trained."""
        super().__init__()
        self.backbone = backbone
        self.head: CosineHead | None = None
        self.adapters: Adapters | None = None
        if tune:
            self.adapters = Adapters(backbone.depth, backbone.width, bottleneck=bottleneck, scale=scale, dropout=dropout)

    def begin_task(self, task: Task) -> None:
        first = self.adapters is not None and task.index == 0
        self.head = CosineHead(self.backbone.width, len(task.classes)) if first else None

    def learning(self) -> list[nn.Parameter]:
        """Return the parameters to train in the first task; none afterwards."""
        return [*self.adapters.parameters(), *self.head.parameters()] if self.adapters and self.head else []

    def training_step(self, batch: Batch, phase: object) -> dict[str, Tensor]:
        assert self.head is not None  # there is a phase in the first task only
        return {"ce": F.cross_entropy(self.head(self.adapted(batch.images)), batch.labels)}

    def adapted(self, images: Tensor) -> Tensor:
        """Return the features, (batch, width), of images or of the tokens that enter the first block."""
        return self.backbone(images, adapters=self.adapters) if self.adapters else self.backbone(images)

    def features(self, images: Tensor) -> Tensor:
        return self.frozen_stage(images)
