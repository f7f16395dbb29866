"""Any model of timm. Plain vision transformers take prompts, prefixes and adapters; all others give features."""

import inspect
from typing import Any

import timm
import torch
from torch import Tensor, nn

from cil.backbones.base import Backbone, image_spec
from cil.backbones.vit import ViT, plain
from cil.backbones.weights import load
from cil.common.errors import UserError, nearest
from cil.common.ranges import Count
from cil.data.transforms.views import ImageSpec


class TimmModel(Backbone):
    """A model of timm without its classifier. The feature is what timm's classifier would be given."""

    def __init__(self, trunk: nn.Module, image: ImageSpec) -> None:
        super().__init__(image, trunk.head_hidden_size)
        self.trunk = trunk

    def forward(self, images: Tensor) -> Tensor:
        """Return the features, (batch, width)."""
        return self.trunk.forward_head(self.trunk.forward_features(images), pre_logits=True)


def timm_model(
    *, name: str | None, weights: str | None, sha256: str | None, size: Count | None, norm: str | dict, changes: dict,
    root: str | None = None,
) -> ViT | TimmModel:  # fmt: skip
    """Build a model of timm by its name, as in `resnet50.a1_in1k`; the part after the point names timm's weights.

    `weights: timm` takes those weights from the hub or its cache; a file, a `hub:` address or null (untrained) work too.
    `size` in pixels and `norm` default to what the model was trained with. A vision transformer at another size gets
    resampled position embeddings. `changes` are further arguments of the model.
    """
    name, found = released(name)
    own = {"mean": found.mean, "std": found.std}
    spec = image_spec({"size": size or min(found.input_size[1:]), "norm": norm}, own)
    trunk = built(name, spec.size, changes)
    backbone = ViT(trunk, spec) if isinstance(trunk, timm.models.VisionTransformer) and plain(trunk) else TimmModel(trunk, spec)
    backbone.identity = load(trunk, address(name, weights), sha256, root)
    return backbone


def released(name: str | None) -> tuple[str, Any]:
    """A name and what timm knows of the model: how it was trained, and where its weights are."""
    if name is None:
        raise UserError("backbone=timm needs a model; type backbone.name=resnet50.a1_in1k, or a name of timm.list_models()")
    if not timm.is_model(name):
        raise UserError(f"backbone.name={name} is not a model of timm; {nearest(name, timm.list_models())}")
    try:
        return name, timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise UserError(f"backbone.name={name}: {error}; type backbone.name={name.split('.')[0]}") from None


def address(name: str | None, weights: str | None) -> str | None:
    """Return the `hub:` address of timm's own weights; other weights are returned as they are."""
    if weights != "timm":
        return weights
    name, found = released(name)
    if not found.hf_hub_id:
        raise UserError(f"backbone.name={name} has no weights of its own; type {tagged(name)} or backbone.weights=null")
    return f"hub:{found.hf_hub_id}/{found.hf_hub_filename or 'model.safetensors'}"


def built(name: str, size: int, changes: dict) -> nn.Module:
    """Create the untrained model. Models whose positions depend on the image size are told the size."""
    settings = {"pretrained": False, "num_classes": 0, **changes}
    with torch.device("meta"):
        kind = type(timm.create_model(name, **settings))
    constructors = [vars(one)["__init__"] for one in kind.__mro__ if "__init__" in vars(one)]
    takes_size = any("img_size" in inspect.signature(one).parameters for one in constructors)
    return timm.create_model(name, **settings, **({"img_size": size} if takes_size else {}))


def tagged(name: str) -> str:
    """The names of timm's pre-trained weights for an architecture, for an error message."""
    found = timm.list_models(f"{name.split('.')[0]}.*", pretrained=True)
    return ", ".join(f"backbone.name={one}" for one in found[:3]) or "another model"
