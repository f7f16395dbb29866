"""Crop boxes, and cropping and resizing of photographs of different sizes one at a time.

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
