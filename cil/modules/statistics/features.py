"""Features of the training images of a task, and their means."""

from collections.abc import Callable

import torch
from torch import Tensor

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
