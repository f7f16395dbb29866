"""LoRA on the keys and values of every attention layer of a model, whose own weights stay as they are (MG-CLIP)."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.modules.heads.cosine import exact
from cil.modules.replaced import replaced


class AttentionLoRA(nn.Module):
    """Low-rank factors for each layer of torch's MultiheadAttention. `up` starts at zero, so that at first nothing changes."""

    def __init__(self, model: nn.Module, rank: int, scale: float) -> None:
        super().__init__()
        layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.MultiheadAttention)}
        self.names, self.scale = [f"{name}.in_proj_weight" for name in layers], scale
        self.down = nn.ParameterList(torch.empty(2, rank, part.embed_dim) for part in layers.values())
        self.up = nn.ParameterList(torch.empty(2, part.embed_dim, rank) for part in layers.values())
        self.reset()

    def reset(self) -> None:
        """Draw the factors anew, `down` by Xavier's rule."""
        for down, up in zip(self.down, self.up):
            bound = math.sqrt(6 / sum(down.shape[1:]))
            down.data.copy_(torch.empty(down.shape).uniform_(-bound, bound))
            up.data.zero_()

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the changed weights by their names in the model: queries, keys and values, (3 · width, width) each."""
        with exact(self.up[0]):
            changes = [self.scale * (up @ down).flatten(0, 1) for up, down in zip(self.up, self.down)]
            return {
                name: model.get_parameter(name) + F.pad(own, (0, 0, own.shape[1], 0)) for name, own in zip(self.names, changes)
            }

    def call(self, model: nn.Module, call: Callable, *given: Any) -> Any:
        """Return `call(*given)`, in which the model has the changed weights."""
        return replaced(model, self.weights(model), call, *given)
