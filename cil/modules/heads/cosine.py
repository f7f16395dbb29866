"""Scores between images and texts, in float32 whatever the precision of the run: bf16 has a step of 1/8 at a logit of 20."""

import torch
from torch import Tensor


def exact(like: Tensor) -> torch.autocast:
    """In the precision of the numbers themselves, inside a run of any precision."""
    return torch.autocast(like.device.type, enabled=False)


def scores(scale: Tensor, images: Tensor, texts: Tensor) -> Tensor:
    """(batch, texts) from (batch, width) and (texts, width), or from (batch, texts, width): texts of an image's own."""
    with exact(images):
        if texts.dim() == 2:
            return scale.float() * images.float() @ texts.float().T
        return scale.float() * torch.einsum("bd,bkd->bk", images.float(), texts.float())
