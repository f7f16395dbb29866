"""torchvision's ResNet-18 without pretraining, with a stem for photographs or for small images."""

from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet18 as torchvision_resnet18

from cil.backbones.base import Backbone, image_spec
from cil.backbones.weights import expects, load
from cil.data.transforms.views import ImageSpec

SMALL = 64  # pixels


class ResNet18(Backbone):
    """Four stages of two blocks. The feature is the spatial mean of the last feature map, 512 values.

    The stem for photographs reduces height and width to a quarter; the stem for small images keeps the resolution.
    """

    def __init__(self, image: ImageSpec, *, small: bool) -> None:
        trunk = torchvision_resnet18(weights=None)
        super().__init__(image, trunk.fc.in_features)
        self.trunk = trunk
        self.trunk.fc = nn.Identity()
        if small:
            self.trunk.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(self.trunk.conv1.weight, mode="fan_out", nonlinearity="relu")  # as in torchvision
            self.trunk.maxpool = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk(images)


def resnet18(
    *, stem: Literal["photo", "small"] | None, weights: str | None, sha256: str | None, image: dict, root: str | None = None,
) -> ResNet18:  # fmt: skip
    """Build a ResNet-18. `stem`: `photo` (7×7 with stride 2, then max-pooling) or `small` (3×3); null: small up to 64 px.

    `root` is a folder with copies of the registered weights.
    """
    spec = image_spec(image, expects(weights))
    stem = stem or ("small" if spec.size <= SMALL else "photo")
    backbone = ResNet18(spec, small=stem == "small")
    backbone.identity = load(backbone.trunk, weights, sha256, root)
    return backbone
