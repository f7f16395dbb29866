"""Vision transformers of timm: ViT-B/16 in its several checkpoints, and the tiny twin that ships with the project."""

from collections.abc import Iterator

import timm
from torch import Tensor, nn

from cil.augment import ImageSpec
from cil.backbones.inputs import image_spec
from cil.backbones.weights import expects, load


class ViT(nn.Module):
    """A VisionTransformer whose feature is the class token after the final norm."""

    def __init__(self, trunk: nn.Module, image: ImageSpec) -> None:
        super().__init__()
        self.trunk, self.image, self.width = trunk, image, trunk.embed_dim
        self.identity: dict = {}

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk.forward_features(images)[:, 0]  # (batch, width)

    def image_parameters(self) -> Iterator[nn.Parameter]:
        return self.trunk.parameters()


def vit(
    *, architecture: str, weights: str | None, sha256: str | None, image: dict, changes: dict, root: str | None = None
) -> ViT:
    """`architecture` is a timm name; `changes` are arguments that make it another size (patch_size, depth, …).

    `root` holds a mirror of the registered weights.
    """
    spec = image_spec(image, expects(weights))
    trunk = timm.create_model(architecture, pretrained=False, num_classes=0, img_size=spec.size, **changes)
    backbone = ViT(trunk, spec)
    backbone.identity = load(trunk, weights, sha256, root)
    return backbone
