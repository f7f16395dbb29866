"""Training data of a phase that learns from sampled features instead of images."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cil.common.transfer import sent
from cil.data.frozen_features import Known


@dataclass(frozen=True)
class PseudoFeatures:
    """Takes the place of labelled images in the trainer; no image is loaded. The method defines `losses_from`."""

    labels: Tensor  # of the samples of an epoch
    take: Callable[[Tensor], Tensor]  # indices → (batch, width), features that the method sampled for this epoch

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def rows(self) -> Tensor:
        return torch.arange(len(self))

    def batch(
        self, positions: Tensor, device: str | torch.device = "cpu", random: torch.Generator | None = None, step: int = 0
    ) -> Known:
        return Known(self.take(sent(positions, device)), sent(self.labels[positions], device), step)
