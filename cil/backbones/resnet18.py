"""ResNet-18 from scratch, for photographs and for small images; the network is torchvision's."""

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet18 as torchvision_resnet18

from cil.backbones.inputs import image_spec
from cil.backbones.weights import expects, load
from cil.data.transforms.views import ImageSpec

SMALL = 64  # pixels


class ResNet18(nn.Module):
    """Four stages of two blocks; the feature is the mean over the last map, 512 wide.

    The stem of a photograph brings it to a quarter of its side at once; that of a small image keeps every pixel.
    """

    def __init__(self, image: ImageSpec, *, small: bool) -> None:
        super().__init__()
        self.trunk = torchvision_resnet18(weights=None)
        self.image, self.width = image, self.trunk.fc.in_features
        self.identity: dict = {}
        self.trunk.fc = nn.Identity()
        if small:
            self.trunk.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(self.trunk.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's others
            self.trunk.maxpool = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk(images)

    def bare(self, images: Tensor) -> Tensor:
        """The floor that `make bench` measures against."""
        return self(images)

    def image_parameters(self) -> Iterator[nn.Parameter]:
        return self.parameters()


def resnet18(
    *, stem: Literal["photo", "small"] | None, weights: str | None, sha256: str | None, image: dict, root: str | None = None,
) -> ResNet18:  # fmt: skip
    """`stem`: `photo` (7×7, every second pixel, then a max-pool) or `small` (3×3); null: small up to 64 px. `root` holds a
    mirror of the registered weights."""
    spec = image_spec(image, expects(weights))
    stem = stem or ("small" if spec.size <= SMALL else "photo")
    backbone = ResNet18(spec, small=stem == "small")
    backbone.identity = load(backbone.trunk, weights, sha256, root)
    return backbone
