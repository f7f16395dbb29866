"""What APER and RanPAC have in common: adapters that learn the first task through a cosine head, and then stay as they are."""

import torch.nn.functional as F
from torch import Tensor, nn

from cil.data.images import Batch
from cil.data.scenario import Task
from cil.modules.adapters.parallel import Adapters
from cil.modules.heads.frozen_images import FrozenImages
from cil.modules.heads.linear import CosineHead


class FirstTaskTuned(FrozenImages, nn.Module):
    """Nobody asks for the frozen stage before the end of the first task, so that its results hold for the run."""

    def __init__(self, backbone: nn.Module, *, tune: bool, bottleneck: int, scale: float, dropout: float) -> None:
        """`tune`: false leaves the backbone as it is, and nothing is trained."""
        super().__init__()
        self.backbone, self.head, self.adapters = backbone, None, None
        if tune:
            size = dict(bottleneck=bottleneck, scale=scale, dropout=dropout)
            self.adapters = Adapters(backbone.depth, backbone.width, **size)

    def begin_task(self, task: Task) -> None:
        first = self.adapters is not None and task.index == 0
        self.head = CosineHead(self.backbone.width, len(task.classes)) if first else None

    def learning(self) -> list[nn.Parameter]:
        """Of the first task; none afterwards."""
        return [*self.adapters.parameters(), *self.head.parameters()] if self.head else []

    def training_step(self, batch: Batch, phase: object) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(self.head(self.adapted(batch.images)), batch.labels)}

    def adapted(self, images: Tensor) -> Tensor:
        """(batch, width), of images or of the tokens that enter the first block."""
        return self.backbone(images, adapters=self.adapters) if self.adapters else self.backbone(images)

    def features(self, images: Tensor) -> Tensor:
        return self.frozen_stage(images)
