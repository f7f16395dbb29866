"""Crop, resize, mirror and normalise whole batches as two small matrix products, with Pillow's own filter coefficients.

Resampling along an axis is linear, so a crop of a batch is one (n_out, n_in) matrix an image and axis; a mirror image
is the same matrix read backwards. Pillow rounds to 8 bits after each pass and so does this, which keeps the result
within one grey level of the per-image pipeline (a view without chance is equal to the bit). The width is resized before
the height, as in every Pillow until 12; from 13 on it begins with the height where that shrinks by more than twice as
many pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cil.mistakes import Mistake, nearest

CROPS = ("whole", "centre", "padded", "random_resized")
BITS = 22  # Pillow's coefficients are multiples of 2^-22, so that products in float64 are exact
CACHE = 1 << 18  # numbers that a core's cache holds with room to spare


@dataclass(frozen=True)
class ImageSpec:
    """What a backbone wants to see."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class View:
    """How stored pixels become a backbone's input."""

    image: ImageSpec
    crop: str = "whole"
    flip: float = 0.0  # probability of the mirror image
    filter: str = "bilinear"
    resize: int | None = None  # centre: the shorter side before the crop
    padding: int = 0  # padded: black border, in pixels
    scale: tuple[float, float] = (0.08, 1.0)  # random_resized: share of the area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        for word, known in ((self.crop, CROPS), (self.filter, FILTERS)):
            if word not in known:
                raise Mistake(f"augment: {word!r} is not known; {nearest(word, known)}")
        if self.crop == "centre" and self.resize is not None and self.resize < self.image.size:
            raise Mistake(f"augment: resize={self.resize} is less than the backbone's {self.image.size} px, so no crop "
                          f"fits; type augment.test.resize={self.image.size} or more")  # fmt: skip

    @property
    def has_chance(self) -> bool:
        return self.flip > 0 or self.crop in ("padded", "random_resized")

    def words(self) -> str:
        """The transform as a sentence, for the run's identity."""
        size = f"{self.image.size} px"
        bounds = f"scale {span(self.scale)}, ratio {span(self.ratio)}"
        crop = {
            "whole": f"resize to {size} ({self.filter})",
            "centre": f"shorter side to {self.resize or self.image.size} ({self.filter}), centre crop {size}",
            "padded": f"pad {self.padding}, random crop {size}",
            "random_resized": f"random resized crop {size} ({self.filter}, {bounds})",
        }[self.crop]
        mirror = f", mirror p={self.flip:g}" if self.flip else ""
        mean, std = ("/".join(f"{v:g}" for v in values) for values in (self.image.mean, self.image.std))
        return f"{crop}{mirror}, [0, 1], mean {mean}, std {std}"

    def __call__(self, pixels: Tensor, random: torch.Generator | None = None) -> Tensor:
        """(batch, height, 3, width) uint8 → (batch, 3, size, size) float32."""
        mean, std = (torch.tensor(v, device=pixels.device).view(1, 3, 1, 1) for v in (self.image.mean, self.image.std))
        return self._cropped(pixels, random, lambda levels: levels.div_(255).sub_(mean).div_(std))

    def geometry(self, pixels: Tensor, random: torch.Generator | None = None) -> Tensor:
        """The crop alone, in grey levels: (batch, 3, size, size) float32 with whole numbers from 0 to 255."""
        return self._cropped(pixels, random, lambda levels: levels)

    def _cropped(self, pixels: Tensor, random: torch.Generator | None, finish: Callable[[Tensor], Tensor]) -> Tensor:
        """`finish` works in place on a few images at a time, while they are in the processor's cache."""
        batch, height, _, width = pixels.shape
        size = self.image.size
        if self.has_chance and random is None:
            raise ValueError("a view with chance in it needs a random generator")
        if self.crop == "whole" and not self.flip and height == width == size:
            return finish(pixels.permute(0, 2, 1, 3).to(torch.float32, memory_format=torch.contiguous_format))
        down, across = self._matrices(batch, height, width, random)
        if self.flip:
            mirrored = torch.rand(batch, generator=random) < self.flip
            across = torch.where(mirrored[:, None, None], across.flip(1), across)
        down, across = down.to(pixels.device), across.to(pixels.device)
        out = room(batch, 3, size, size, device=pixels.device)
        few = max(1, CACHE // (3 * size * size)) if pixels.device.type == "cpu" else batch
        for start in range(0, batch, few):
            part = slice(start, start + few)
            own = (matrix if len(matrix) == 1 else matrix[part] for matrix in (down, across))
            finish(out[part].copy_(resample(pixels[part], *own)))
        return out

    def _matrices(self, batch: int, height: int, width: int, random: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """One (1 or batch, size, height) and one (1 or batch, size, width) matrix.

        Without chance they are float64, which makes the result exact; with it float32, twice as fast.
        """
        size, how = self.image.size, dict(kind=self.filter, dtype=torch.float32 if self.has_chance else torch.float64)
        if self.crop == "centre":
            return self._centre(height, width, **how)
        if self.crop == "whole":
            top = left = torch.zeros(1)
            tall, wide = torch.tensor([height]), torch.tensor([width])
        elif self.crop == "padded":
            if height != size or width != size:
                raise Mistake(f"augment: crop=padded keeps the scale, but images are {height}x{width} and the backbone "
                              f"wants {size}; type augment=random_resized_crop")  # fmt: skip
            top, left = torch.randint(-self.padding, self.padding + 1, (2, batch), generator=random)
            tall = wide = torch.full((batch,), size)
        else:
            top, left, tall, wide = random_boxes(batch, height, width, self.scale, self.ratio, random)
        return coefficients(top, tall, height, size, **how), coefficients(left, wide, width, size, **how)

    def _centre(self, height: int, width: int, **how: object) -> tuple[Tensor, Tensor]:
        size, short = self.image.size, self.resize or self.image.size
        pair = []
        for length in (height, width):
            target = short if length == min(height, width) else int(short * length / min(height, width))
            matrix = coefficients(torch.zeros(1), torch.tensor([length]), length, target, **how)
            start = round((target - size) / 2)
            pair.append(matrix[:, start : start + size])
        return pair[0], pair[1]


def views(image: ImageSpec, *, train: dict, test: dict) -> tuple[View, View]:
    """The two views of a data set: with chance for training, without for everything else.

    `resize` is said for a backbone of 224 px, as the papers have it; for another size it is in proportion.
    """
    nodes = ({key: tuple(v) if isinstance(v, list) else v for key, v in node.items()} for node in (train, test))
    nodes = [node | ({"resize": round(node["resize"] * image.size / 224)} if node.get("resize") else {}) for node in nodes]
    pair = tuple(View(image, **node) for node in nodes)
    if pair[1].has_chance:
        raise Mistake("augment.test must be without chance: crop=whole or crop=centre, flip=0")
    return pair


def span(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.3g}–{pair[1]:.3g}"


def random_boxes(batch: int, height: int, width: int, scale, ratio, random) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """top, left, height, width of a random resized crop an image: ten draws, the first that fits, else the centre."""
    area = height * width * torch.empty(batch, 10).uniform_(*scale, generator=random)
    shape = torch.empty(batch, 10).uniform_(math.log(ratio[0]), math.log(ratio[1]), generator=random).exp()
    wide, tall = (area * shape).sqrt().round(), (area / shape).sqrt().round()
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = fits.int().argmax(1, keepdim=True)
    wide, tall = wide.gather(1, first)[:, 0], tall.gather(1, first)[:, 0]
    place = torch.rand(2, batch, generator=random)
    free = torch.stack([height - tall, width - wide])
    top, left = (place * (free + 1)).floor().minimum(free)  # the product may round up to the bound itself
    none = ~fits.any(1)
    if none.any():
        full_wide, full_tall = width, height
        if width / height < ratio[0]:
            full_tall = round(width / ratio[0])
        elif width / height > ratio[1]:
            full_wide = round(height * ratio[1])
        wide, tall = wide.masked_fill(none, full_wide), tall.masked_fill(none, full_tall)
        top, left = top.masked_fill(none, (height - full_tall) // 2), left.masked_fill(none, (width - full_wide) // 2)
    return top, left, tall, wide


def coefficients(start: Tensor, length: Tensor, n_in: int, n_out: int, kind: str, dtype: torch.dtype) -> Tensor:
    """Pillow's resampling of [start, start + length) to n_out pixels: (batch, n_out, n_in), rows sum to one.

    A row whose pixels all lie outside the image is zero: that is the black border of a padded crop. As float64 they are
    Pillow's own fixed-point numbers.
    """
    start, length = start.to(dtype)[:, None, None], length.to(dtype)[:, None, None]
    scale = length / n_out
    stretch = scale.clamp(min=1)
    centre = (torch.arange(n_out, dtype=dtype)[:, None] + 0.5) * scale  # (batch, n_out, 1), within the crop
    inside = torch.arange(n_in, dtype=dtype) - start  # (batch, 1, n_in)
    weight = FILTERS[kind]((inside + 0.5) / stretch - centre / stretch)
    weight *= (inside >= 0) & (inside < length)
    total = weight.sum(2, keepdim=True)
    weight /= total.where(total != 0, torch.ones((), dtype=dtype))
    return weight if dtype == torch.float32 else (weight * 2**BITS + 0.5 * weight.sign()).trunc() / 2**BITS


def _bilinear(x: Tensor) -> Tensor:
    return x.abs_().neg_().add_(1).clamp_(min=0)


def _bicubic(x: Tensor, a: float = -0.5) -> Tensor:
    x = x.abs()
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


FILTERS = {"bilinear": _bilinear, "bicubic": _bicubic}


def resample(pixels: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """(batch, H, 3, W) uint8, (1 or batch, h, H), (1 or batch, w, W) → (batch, 3, h, w), rounded after each pass."""
    batch, height, _, width = pixels.shape
    levels = pixels.transpose(1, 2).to(down.dtype).reshape(batch, 3 * height, width)
    with torch.autocast(pixels.device.type, enabled=False):  # grey levels do not fit into bfloat16
        wide = eight_bits(levels @ across.transpose(1, 2))  # (batch, 3 * H, w)
        return eight_bits(down[:, None] @ wide.view(batch, 3, height, -1))


def room(*shape: int, device: torch.device) -> Tensor:
    """An empty float32 tensor. On the CPU numpy makes it: in huge pages, which are there four times sooner."""
    return torch.from_numpy(np.empty(shape, np.float32)) if device.type == "cpu" else torch.empty(shape, device=device)


def eight_bits(levels: Tensor) -> Tensor:
    return levels.add_(0.5).floor_().clamp_(0, 255)
