"""Adapts the weights of a vision transformer to another image size by resampling its position embeddings, as timm does."""

from pathlib import Path

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from cil.backbones.formats import read


def resized(state: dict[str, Tensor], trunk: torch.nn.Module) -> dict[str, Tensor]:
    """Return `state` in float32, with one position embedding for each patch of `trunk`."""
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    if state["pos_embed"].shape != trunk.pos_embed.shape:
        grid = trunk.patch_embed.grid_size
        state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], new_size=list(grid), num_prefix_tokens=1)
    return state


def fill_resized(trunk: torch.nn.Module, file: Path) -> None:
    """Load every weight of `trunk` from a file of the same network, trained at any image size."""
    trunk.load_state_dict(resized(read(file), trunk))
