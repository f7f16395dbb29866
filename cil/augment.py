"""Crop, resize, mirror and normalise whole batches as two small matrix products, with Pillow's own filter coefficients.

Resampling along an axis is linear, so a crop of a batch is one (n_out, n_in) matrix an image and axis; a mirror image is
the same matrix read backwards. Pillow rounds to 8 bits after each pass and so does this, which keeps the result within
one grey level of the per-image pipeline (the resize without chance is equal to the bit).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cil.mistakes import Mistake, nearest

CROPS = ("whole", "centre", "padded", "random_resized")
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


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
        for word, known in ((self.crop, CROPS), (self.filter, SUPPORT)):
            if word not in known:
                raise Mistake(f"augment: {word!r} is not known; {nearest(word, known)}")

    @property
    def has_chance(self) -> bool:
        return self.flip > 0 or self.crop in ("padded", "random_resized")

    def words(self) -> str:
        """The transform as a sentence, for the run's identity."""
        size = f"{self.image.size} px"
        crop = {
            "whole": f"resize to {size} ({self.filter})",
            "centre": f"shorter side to {self.resize or self.image.size} ({self.filter}), centre crop {size}",
            "padded": f"pad {self.padding}, random crop {size}",
            "random_resized": f"random resized crop {size} ({self.filter}, scale {span(self.scale)}, ratio {span(self.ratio)})",
        }[self.crop]
        mirror = f", mirror p={self.flip:g}" if self.flip else ""
        mean, std = ("/".join(f"{v:g}" for v in values) for values in (self.image.mean, self.image.std))
        return f"{crop}{mirror}, [0, 1], mean {mean}, std {std}"

    def __call__(self, pixels: Tensor, random: torch.Generator | None = None) -> Tensor:
        """(batch, height, 3, width) uint8 → (batch, 3, size, size) float32."""
        levels = self.geometry(pixels, random)
        mean, std = (torch.tensor(v, device=levels.device).view(1, 3, 1, 1) for v in (self.image.mean, self.image.std))
        return levels.div_(255).sub_(mean).div_(std)

    def geometry(self, pixels: Tensor, random: torch.Generator | None = None) -> Tensor:
        """The crop alone, in grey levels: (batch, 3, size, size) float32 with whole numbers from 0 to 255."""
        batch, height, _, width = pixels.shape
        if self.has_chance and random is None:
            raise ValueError("a view with chance in it needs a random generator")
        if self.crop == "whole" and not self.flip and height == width == self.image.size:
            return pixels.permute(0, 2, 1, 3).to(torch.float32, memory_format=torch.contiguous_format)
        down, across = self._matrices(batch, height, width, random)
        if self.flip:
            mirrored = torch.rand(batch, generator=random) < self.flip
            across = torch.where(mirrored[:, None, None], across.flip(1), across)
        return resample(pixels, down.to(pixels.device), across.to(pixels.device))

    def _matrices(self, batch: int, height: int, width: int, random: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """One (1 or batch, size, height) and one (1 or batch, size, width) matrix."""
        size, zero = self.image.size, torch.zeros(1)
        if self.crop == "whole":
            box = (zero, zero, torch.tensor([height]), torch.tensor([width]))
        elif self.crop == "centre":
            return self._centre(height, width)
        elif self.crop == "padded":
            if height != size or width != size:
                raise Mistake(f"augment: crop=padded keeps the scale, but images are {height}x{width} and the backbone "
                              f"wants {size}; type augment=random_resized_crop")  # fmt: skip
            top, left = torch.randint(-self.padding, self.padding + 1, (2, batch), generator=random)
            box = (top, left, torch.full((batch,), size), torch.full((batch,), size))
        else:
            box = random_boxes(batch, height, width, self.scale, self.ratio, random)
        top, left, tall, wide = box
        return coefficients(top, tall, height, size, self.filter), coefficients(left, wide, width, size, self.filter)

    def _centre(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        size, short = self.image.size, self.resize or self.image.size
        pair = []
        for length in (height, width):
            target = short if length == min(height, width) else int(short * length / min(height, width))
            matrix = coefficients(torch.zeros(1), torch.tensor([length]), length, target, self.filter)
            start = round((target - size) / 2)
            pair.append(matrix[:, start : start + size])
        return pair[0], pair[1]


def views(image: ImageSpec, *, train: dict, test: dict) -> tuple[View, View]:
    """The two views of a data set: with chance for training, without for everything else."""
    pair = tuple(View(image, **{key: tuple(v) if isinstance(v, list) else v for key, v in node.items()}) for node in (train, test))
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
    top, left = (place[0] * (height - tall + 1)).floor(), (place[1] * (width - wide + 1)).floor()
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


def coefficients(start: Tensor, length: Tensor, n_in: int, n_out: int, kind: str) -> Tensor:
    """Pillow's resampling of [start, start + length) to n_out pixels: (batch, n_out, n_in) float32, rows sum to one.

    A row whose pixels all lie outside the image is zero: that is the black border of a padded crop.
    """
    start, length = start.double()[:, None, None], length.double()[:, None, None]
    scale = length / n_out
    stretch = scale.clamp(min=1)
    reach = SUPPORT[kind] * stretch
    centre = (torch.arange(n_out, dtype=torch.float64)[:, None] + 0.5) * scale  # (batch, n_out, 1)
    inside = torch.arange(n_in, dtype=torch.float64) - start  # (batch, 1, n_in): position within the crop
    near = (inside >= (centre - reach + 0.5).floor()) & (inside < (centre + reach + 0.5).floor())
    near &= (inside >= 0) & (inside < length)
    weight = FILTERS[kind]((inside - centre + 0.5) / stretch) * near
    return (weight / weight.sum(2, keepdim=True).where(near.any(2, keepdim=True), torch.ones(()).double())).float()


def _bilinear(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _bicubic(x: Tensor, a: float = -0.5) -> Tensor:
    x = x.abs()
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


FILTERS = {"bilinear": _bilinear, "bicubic": _bicubic}


def resample(pixels: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """(batch, H, 3, W) uint8, (1 or batch, h, H), (1 or batch, w, W) → (batch, 3, h, w), rounded after each pass as Pillow does."""
    batch, height, _, width = pixels.shape
    levels = pixels.reshape(batch, height * 3, width).to(down.dtype)
    wide = eight_bits(levels @ across.transpose(1, 2))  # (batch, H * 3, w)
    tall = eight_bits(down @ wide.view(batch, height, -1))  # (batch, h, 3 * w)
    return tall.view(batch, down.shape[1], 3, across.shape[1]).permute(0, 2, 1, 3).contiguous()


def eight_bits(levels: Tensor) -> Tensor:
    return levels.add_(0.5).floor_().clamp_(0, 255)
