"""Methods that see images through a frozen tower alone."""

import torch.nn.functional as F
from torch import Tensor, nn


class FrozenImages:
    """A method's `predict` by way of the normalised feature of an image; the method adds `predict_from`."""

    backbone: nn.Module

    def predict(self, images: Tensor) -> Tensor:
        return self.predict_from(self.frozen_stage(images), lambda: images)

    def frozen_stage(self, images: Tensor) -> Tensor:
        return F.normalize(self.backbone(images).float(), dim=1)
