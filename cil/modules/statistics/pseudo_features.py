"""Data of a phase that learns from features drawn of what is known of classes, not from images."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cil.common.transfer import sent
from cil.data.frozen_features import Known


@dataclass(frozen=True)
class PseudoFeatures:
    """What the trainer asks of labelled images, so that none is loaded; the method answers a batch with `losses_from`."""

    labels: Tensor  # of an epoch's samples
    take: Callable[[Tensor], Tensor]  # places among them → (batch, width) of those that the method drew for this epoch

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def rows(self) -> Tensor:
        return torch.arange(len(self))

    def batch(
        self, positions: Tensor, device: str | torch.device = "cpu", random: torch.Generator | None = None, step: int = 0
    ) -> Known:
        return Known(self.take(sent(positions, device)), sent(self.labels[positions], device), step)
