"""Encodes many class names with one shared context, computing the context only once for up to `TOGETHER` names.

The text encoder is causal: the tokens before a class name do not depend on it. One sequence [start, context, name 1, name 2, …]
with a block mask therefore replaces one sequence per name. Names attend to start, context and their own earlier tokens, at the
positions that they would have directly after the context. Outputs and gradients are equal up to rounding.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

CPU = torch.device("cpu")
TOGETHER = 32  # names in one sequence: more repeat the context less often, but make attention more expensive


def encode(trunk: nn.Module, contexts: Tensor, start: int, names: Sequence[Sequence[int]]) -> Tensor:
    """Encode names after contexts: (sets, length, text width) → (sets, names, width).

    `names` are the token ids of each name, up to its end-of-text token; `start` is the id of the start token.
    """
    parts = [tuple(map(tuple, names[first : first + TOGETHER])) for first in range(0, len(names), TOGETHER)]
    return torch.cat([_encode(trunk, contexts, start, part) for part in parts], 1)


def _encode(trunk: nn.Module, contexts: Tensor, start: int, names: tuple[tuple[int, ...], ...]) -> Tensor:
    sets, length, _ = contexts.shape
    ids, positions, mask, ends = layout(length, names, contexts.device)
    place, table = trunk.positional_embedding, trunk.token_embedding
    first = table(torch.full((1, 1), start, device=contexts.device)) + place[0]
    behind = (table(ids) + place[positions])[None]
    x = torch.cat([first.expand(sets, -1, -1), contexts + place[1 : 1 + length], behind.expand(sets, -1, -1)], 1)
    x = trunk.ln_final(through(trunk.transformer, x, mask.to(x.dtype))[:, ends])
    return x @ trunk.text_projection


def through(transformer: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """Return `transformer(x, attn_mask=mask)`, (batch, tokens, width).

    open_clip's blocks swap batch and tokens for attention, so that the product with the weights first copies its input. Here
    they stay in place. The results are equal up to rounding, and for a batch of one to the bit.
    """
    for block in transformer.resblocks:
        if type(block) is not ResidualAttentionBlock or not isinstance(attention := block.attn, nn.MultiheadAttention):
            return transformer(x, attn_mask=mask)
        joint = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = joint.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        x = x + block.ls_1(attention.out_proj(mixed))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return x


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def layout(
    length: int, names: tuple[tuple[int, ...], ...], device: torch.device = CPU
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the ids and positions of the names' tokens, the attention mask of the sequence, and where each name ends.

    The results are cached, so that they are copied to the device only once.
    """
    sizes = torch.tensor([len(name) for name in names])
    owner = torch.cat([torch.full((1 + length,), -1), torch.arange(len(names)).repeat_interleave(sizes)])
    order = torch.arange(len(owner))
    sees = (order[None] <= order[:, None]) & ((owner[None] == owner[:, None]) | (owner[None] == -1))
    mask = torch.zeros(sees.shape).masked_fill(~sees, -torch.inf)
    positions = torch.cat([1 + length + torch.arange(size) for size in sizes.tolist()])
    ids = torch.tensor([token for name in names for token in name])
    return ids.to(device), positions.to(device), mask.to(device), (length + sizes.cumsum(0)).to(device)
