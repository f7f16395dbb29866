"""Features of the training images of a task and their means, and training data of sampled features."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cil.common.transfer import sent
from cil.data.frozen_features import Known
from cil.data.images import LabelledImages

IMAGES = 250  # at a time


def computed(
    call: Callable[[Tensor], Tensor], images: LabelledImages, device: torch.device, size: int = IMAGES
) -> tuple[Tensor, Tensor]:
    """Return what `call` gives for all images, (images, …), and their labels."""
    return torch.cat([call(batch.images).float() for batch in images.batches(size, device)]), images.labels.to(device)


def class_means(features: Tensor, labels: Tensor, classes: range) -> Tensor:
    """Return the mean feature of each class: (images, …) → (classes, …)."""
    return torch.stack([features[labels == label].mean(0) for label in classes])


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
