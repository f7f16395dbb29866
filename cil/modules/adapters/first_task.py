"""The common part of APER and RanPAC: adapters trained on the first task with a cosine head, and frozen afterwards."""

import torch.nn.functional as F
from torch import Tensor, nn

from cil.method import Batch, Phase, Task
from cil.modules.adapters.parallel import AdapterSize
from cil.modules.heads.frozen_images import FrozenImages
from cil.modules.heads.linear import CosineHead


class FirstTaskTuned(FrozenImages, nn.Module):
    """Trains adapters on the first task only. The frozen stage is first used after that, so its outputs can be cached."""

    def __init__(self, backbone: nn.Module, size: AdapterSize, *, tune: bool = True) -> None:
        """`tune`: if false, the backbone has no adapters and nothing is trained."""
        super().__init__()
        self.backbone, self.divisible = backbone, not (tune and size.dropout)
        self.head: CosineHead | None = None
        self.adapters = size.made(backbone) if tune else None

    def begin_task(self, task: Task) -> None:
        first = self.adapters is not None and task.index == 0
        self.head = CosineHead(self.backbone.width, len(task.classes)) if first else None

    def phases(self, task: Task) -> list[Phase]:
        if not (self.adapters and self.head):
            return []
        return [Phase("tune", task, task.train, [*self.adapters.parameters(), *self.head.parameters()])]

    def training_step(self, batch: Batch, phase: object) -> dict[str, Tensor]:
        assert self.head is not None  # there is a phase in the first task only
        return {"ce": F.cross_entropy(self.head(self.adapted(batch.images)), batch.labels)}

    def adapted(self, images: Tensor) -> Tensor:
        """Return the features, (batch, width), of images or of the tokens that enter the first block."""
        return self.backbone(images, adapters=self.adapters) if self.adapters else self.backbone(images)

    def features(self, images: Tensor) -> Tensor:
        return self.frozen_stage(images)
