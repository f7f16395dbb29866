"""Methods that see images through a frozen tower alone."""

from torch import Tensor, nn


class FrozenImages:
    """A method's `predict` by way of the feature of an image, not normalised; the method adds `predict_from`.

    Results of this `frozen_stage`, and of no other, are kept on disk for every run.
    """

    backbone: nn.Module

    def predict(self, images: Tensor) -> Tensor:
        return self.predict_from(self.frozen_stage(images), lambda: images)

    def frozen_stage(self, images: Tensor) -> Tensor:
        return self.backbone(images).float()
