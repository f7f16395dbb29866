"""What all backbones share, and the input size and pixel normalisation of one."""

from collections.abc import Iterator

from torch import Tensor, nn

from cil.common.errors import UserError, nearest
from cil.data.transforms.views import ImageSpec

NORMS = {
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # [0, 1], as in the published code of all prompt methods
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}


class Backbone(nn.Module):
    """Base class of all backbones. `forward` turns images, (batch, 3, height, width), into features, (batch, width)."""

    def __init__(self, image: ImageSpec, width: int) -> None:
        super().__init__()
        self.image, self.width = image, width
        self.identity: dict = {}  # of its weights

    def image_parameters(self) -> Iterator[nn.Parameter]:
        return self.parameters()

    def bare(self, images: Tensor) -> Tensor:
        """The forward pass that `make bench` compares with: the library's own, if there is another here."""
        return self(images)


def image_spec(node: dict, expects: dict | None) -> ImageSpec:
    """Return the input specification for the setting `{size, norm}`.

    `norm` is a key of NORMS, `{mean: [r, g, b], std: [r, g, b]}`, or `expected`: the normalisation with which the weights were
    trained. That is `expects` (None if it is not known).
    """
    for key in node:
        if key not in ("size", "norm"):
            raise UserError(f"backbone.image.{key} is not a setting; type backbone.image.norm=half (or {', '.join(NORMS)})")
    if set(node) != {"size", "norm"} or type(node["size"]) is not int or node["size"] < 1:
        raise UserError(f"backbone.image={node} needs a size in pixels and a norm; type backbone.image.size=224 and "
                        "backbone.image.norm=unit")  # fmt: skip
    norm = node["norm"]
    if norm == "expected":
        if expects is None:
            raise UserError("backbone.image.norm=expected needs weights of the registry, whose normalisation is known; "
                            f"type backbone.image.norm={', '.join(NORMS)} or {{mean: […], std: […]}}")  # fmt: skip
        norm = expects
    if isinstance(norm, dict):
        return ImageSpec(node["size"], *_of_mapping(norm))
    if norm not in NORMS:
        raise UserError(f"backbone.image.norm={norm} is not known; {nearest(str(norm), (*NORMS, 'expected'))}")
    return ImageSpec(node["size"], *NORMS[norm])


def _of_mapping(norm: dict) -> tuple[tuple, tuple]:
    mean, std = (norm.get(key, ()) for key in ("mean", "std"))
    good = set(norm) == {"mean", "std"} and all(
        isinstance(values, list | tuple) and len(values) == 3 and all(type(value) in (int, float) for value in values)
        for values in (mean, std)
    )
    if not good or min(std) <= 0:
        raise UserError(f"backbone.image.norm={norm} is not a normalisation; type backbone.image.norm="
                        "'{mean:[0.5,0.5,0.5],std:[0.5,0.5,0.5]}' (std above 0)")  # fmt: skip
    return tuple(map(float, mean)), tuple(map(float, std))
