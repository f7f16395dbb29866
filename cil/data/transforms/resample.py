"""Resizes whole batches by matrix products, with Pillow's filters as (n_out, n_in) matrices."""

import numpy as np
import torch
from torch import Tensor

BITS = 22  # Pillow's coefficients are multiples of 2^-22, so that products in float64 are exact


def coefficients(start: Tensor, length: Tensor, n_in: int, n_out: int, kind: str, dtype: torch.dtype) -> Tensor:
    """Return the matrices that resample [start, start + length) to n_out pixels as Pillow does: (batch, n_out, n_in).

    `start` and `length` are (batch,). Each row sums to one. A row whose pixels are all outside the image is zero, which gives
    the black border of a padded crop. In float64 the coefficients equal Pillow's fixed-point numbers.
    """
    start, length, how = start.to(dtype)[:, None, None], length.to(dtype)[:, None, None], dict(dtype=dtype, device=start.device)
    scale = length / n_out
    stretch = scale.clamp(min=1)
    centre = (torch.arange(n_out, **how)[:, None] + 0.5) * scale  # (batch, n_out, 1), relative to the crop
    inside = torch.arange(n_in, **how) - start  # (batch, 1, n_in)
    weight = FILTERS[kind]((inside + 0.5) / stretch - centre / stretch)
    weight *= (inside >= 0) & (inside < length)
    total = weight.sum(2, keepdim=True)
    weight /= total.where(total != 0, 1.0)
    return weight if dtype == torch.float32 else (weight * 2**BITS + 0.5 * weight.sign()).trunc() / 2**BITS


def _bilinear(x: Tensor) -> Tensor:
    return x.abs_().neg_().add_(1).clamp_(min=0)


def _bicubic(x: Tensor, a: float = -0.5) -> Tensor:
    x = x.abs()
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


FILTERS = {"bilinear": _bilinear, "bicubic": _bicubic}


def resample(pixels: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Resize `pixels` (batch, H, 3, W) uint8 with `down` (1 or batch, h, H) and `across` (1 or batch, w, W).

    Returns (batch, 3, h, w) with integer values from 0 to 255, rounded after each of the two passes as in Pillow.
    """
    batch, height, _, width = pixels.shape
    levels = pixels.transpose(1, 2).to(down.dtype).reshape(batch, 3 * height, width)
    with torch.autocast(pixels.device.type, enabled=False):  # bfloat16 is too coarse for sums of grey levels
        wide = eight_bits(levels @ across.transpose(1, 2))  # (batch, 3 * H, w)
        return eight_bits(down[:, None] @ wide.view(batch, 3, height, -1))


def room(*shape: int, device: torch.device) -> Tensor:
    """Return an empty float32 tensor. On the CPU NumPy allocates it, in huge pages, which is four times faster."""
    return torch.from_numpy(np.empty(shape, np.float32)) if device.type == "cpu" else torch.empty(shape, device=device)


def eight_bits(levels: Tensor) -> Tensor:
    return levels.add_(0.5).floor_().clamp_(0, 255)
