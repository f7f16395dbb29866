"""Scores of images and texts, always in float32: in bf16 two neighbouring numbers near a logit of 20 differ by 1/8."""

import torch
from torch import Tensor


def exact(like: Tensor) -> torch.autocast:
    """Return a context that disables autocast, so that operations use the precision of their inputs."""
    return torch.autocast(like.device.type, enabled=False)


def scores(scale: Tensor, images: Tensor, texts: Tensor) -> Tensor:
    """Return `scale` · images · texts, (batch, texts), from (batch, width) and (texts, width).

    `texts` may also be (batch, texts, width), if each image has its own.
    """
    with exact(images):
        if texts.dim() == 2:
            return scale.float() * images.float() @ texts.float().T
        return scale.float() * torch.einsum("bd,bkd->bk", images.float(), texts.float())
