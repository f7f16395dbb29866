"""Base class of methods that see images only through a frozen encoder."""

from collections.abc import Callable

from torch import Tensor, nn


class FrozenImages:
    """Predicts from the frozen feature of an image, not normalised. The method adds `predict_from`.

    The outputs of this `frozen_stage`, and of no other, are cached on disk for later runs.
    """

    backbone: nn.Module
    projected: bool = True  # whether the feature is CLIP's projection, or what is projected
    predict_from: Callable[..., Tensor]

    def predict(self, images: Tensor) -> Tensor:
        return self.predict_from(self.frozen_stage(images), lambda: images)

    def frozen_stage(self, images: Tensor) -> Tensor:
        return (self.backbone(images) if self.projected else self.backbone(images, project=False)).float()
