"""Base class of methods that see images only through a frozen encoder."""

from collections.abc import Callable

from torch import Tensor, nn

from cil.method import Batch, FrozenResults, Known, Task


class FrozenImages:
    """Predicts from the frozen feature of an image, not normalised. The method adds `predict_from`, and `losses_from` to learn.

    The outputs of this `frozen_stage`, and of no other, are cached on disk for later runs.
    """

    backbone: nn.Module
    projected: bool = True  # whether the feature is CLIP's projection, or what is projected
    predict_from: Callable[..., Tensor]
    losses_from: Callable[..., dict[str, Tensor]]
    frozen: FrozenResults

    def predict(self, images: Tensor) -> Tensor:
        return self.predict_from(self.frozen_stage(images), lambda: images)

    def frozen_stage(self, images: Tensor) -> Tensor:
        return (self.backbone(images) if self.projected else self.backbone(images, project=False)).float()

    def training_step(self, batch: Batch, phase: object) -> dict[str, Tensor]:
        return self.losses_from(Known(self.frozen_stage(batch.images).detach(), batch.labels, batch.step), phase)

    def of_task(self, task: Task) -> tuple[Tensor, Tensor]:
        """Return the features of the task's training images under the test transform, and their labels."""
        features = self.frozen.of(task.train_plain)
        return features, task.train_plain.labels.to(features.device)
