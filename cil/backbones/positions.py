"""Adapts the weights of a vision transformer to another image size by resampling its position embeddings, as timm does."""

import math

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor


def resized(state: dict[str, Tensor], trunk: torch.nn.Module) -> tuple[dict[str, Tensor], str | None]:
    """Return `state` with one position embedding for each patch of `trunk`, and what was done, in words.

    If the positions fit already, or if this is no matter of the image size, `state` is returned as it is, and None.
    """
    own, found = getattr(trunk, "pos_embed", None), state.get("pos_embed")
    if own is None or found is None or found.shape == own.shape or not hasattr(trunk, "num_prefix_tokens"):
        return state, None
    first = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
    old, new = math.isqrt(found.shape[1] - first), list(trunk.patch_embed.grid_size)
    if old**2 != found.shape[1] - first or found.shape[2] != own.shape[2]:
        return state, None  # the weights of another network, which loading refuses
    sampled = resample_abs_pos_embed(found.float(), new_size=new, num_prefix_tokens=first)
    return state | {"pos_embed": sampled}, f"resampled from {old}×{old} to {new[0]}×{new[1]} patches"
