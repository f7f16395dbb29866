"""Crop boxes, and cropping and resizing as in Pillow: of whole batches by matrix products, of photographs one at a time.

A photograph may be an array that is memory-mapped from a file. A crop reads only the pixels of its box.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

Box = tuple[int, int, int, int]  # top, left, height, width
PILLOW = {"bilinear": 2, "bicubic": 3}  # the numbers of the filters in Pillow
BITS = 22  # Pillow's coefficients are multiples of 2^-22, so that products in float64 are exact


def random_boxes(batch: int, height, width, scale, ratio, random) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw a random resized crop per image: the first of ten draws that fits into the image, otherwise a centre crop.

    `height` and `width` are numbers for all images or tensors (batch,). Returns top, left, height and width, each (batch,).
    """
    height, width = (torch.as_tensor(side).expand(batch)[:, None] for side in (height, width))
    area = height * width * torch.empty(batch, 10).uniform_(*scale, generator=random)
    shape = torch.empty(batch, 10).uniform_(math.log(ratio[0]), math.log(ratio[1]), generator=random).exp()
    wide, tall = (area * shape).sqrt().round(), (area / shape).sqrt().round()
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = fits.int().argmax(1, keepdim=True)
    wide, tall = wide.gather(1, first)[:, 0], tall.gather(1, first)[:, 0]
    place, height, width = torch.rand(2, batch, generator=random), height[:, 0], width[:, 0]
    free = torch.stack([height - tall, width - wide])
    top, left = (place * (free + 1)).floor().minimum(free)  # the product may be rounded up to free + 1
    none = ~fits.any(1)
    if none.any():
        shape = width / height
        full_tall = torch.where(shape < ratio[0], (width / ratio[0]).round().long(), height)
        full_wide = torch.where(shape > ratio[1], (height * ratio[1]).round().long(), width)
        wide, tall = torch.where(none, full_wide, wide), torch.where(none, full_tall, tall)
        top = torch.where(none, (height - full_tall) // 2, top)
        left = torch.where(none, (width - full_wide) // 2, left)
    return top, left, tall, wide


def scaled(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the (width, height) that torchvision resizes to: the shorter side is `side`, the longer is rounded down."""
    short = min(width, height)
    wide, tall = (side if length == short else int(side * length / short) for length in (width, height))
    return wide, tall


# --- whole batches ----------------------------------------------------------------------------------------------------


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


# --- one photograph at a time -----------------------------------------------------------------------------------------


def resized(photo: np.ndarray, width: int, height: int, filter: str) -> np.ndarray:
    """Resize (h, w, 3) uint8 to (height, width, 3) uint8 with Pillow, which releases the GIL."""
    from PIL import Image

    if photo.shape[:2] == (height, width):
        return photo
    return np.asarray(Image.fromarray(np.ascontiguousarray(photo)).resize((width, height), PILLOW[filter]))


def centre(photo: np.ndarray, size: int, short: int, filter: str) -> np.ndarray:
    """Resize the shorter side to `short`, then crop the central `size` × `size` pixels."""
    wide, tall = scaled(photo.shape[1], photo.shape[0], short)
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    return resized(photo, wide, tall, filter)[top : top + size, left : left + size]


def boxed(photo: np.ndarray, size: int, box: Box, filter: str) -> np.ndarray:
    """Crop a box and resize it to `size` × `size` pixels."""
    top, left, tall, wide = box
    return resized(photo[top : top + tall, left : left + wide], size, size, filter)


def each(call: Callable[..., np.ndarray], photos: Sequence[np.ndarray], more: Sequence[tuple], size: int) -> np.ndarray:
    """Stack `call(photo, size, *more)` over photographs, on as many threads as torch: (batch, size, size, 3) uint8."""
    out = np.empty((len(photos), size, size, 3), np.uint8)

    def one(place: int) -> None:
        out[place] = call(photos[place], size, *more[place])

    if torch.get_num_threads() == 1 or len(photos) == 1:
        for place in range(len(photos)):
            one(place)
        return out
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(one, range(len(photos))))
    return out
