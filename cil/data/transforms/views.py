"""Crop, resize, mirror and normalise whole batches as two small matrix products, with Pillow's own filter coefficients.

Resampling along an axis is linear, so a crop of a batch is one (n_out, n_in) matrix an image and axis; a mirror image
is the same matrix read backwards. Pillow rounds to 8 bits after each pass and so does this, which keeps the result
within one grey level of the per-image pipeline (a view without chance is equal to the bit). The width is resized before
the height, as in every Pillow until 12; from 13 on it begins with the height where that shrinks by more than twice as
many pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from cil.common.errors import UserError
from cil.common.ranges import Count, Positive, Range, Share, Whole, check
from cil.common.transfer import channels, sent
from cil.data.transforms.crops import boxed, centre, each, random_boxes, scaled
from cil.data.transforms.randaugment import rand_augment
from cil.data.transforms.resample import coefficients, resample, room

KEEPS_SCALE = ("augment: crop=padded keeps the scale, but images are {} and the backbone wants {}; type "
               "augment=random_resized_crop")  # fmt: skip
Area = Annotated[float, Range(0, 1, open="least", example=1.0)]
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
    crop: Literal["whole", "centre", "padded", "random_resized"] = "whole"
    flip: Share = 0.0  # probability of the mirror image
    randaugment: bool = False  # after the crop
    filter: Literal["bilinear", "bicubic"] = "bilinear"
    resize: Count | None = None  # centre: the shorter side before the crop
    padding: Whole = 0  # padded: black border, in pixels
    scale: tuple[Area, Area] = (0.08, 1.0)  # random_resized: share of the area
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        for key, pair in (("scale", self.scale), ("ratio", self.ratio)):
            if pair[0] > pair[1]:
                raise UserError(f"augment: {key}={list(pair)} goes down; type {key}=[{pair[1]},{pair[0]}]")
        if self.padding >= self.image.size:
            raise UserError(f"augment: padding={self.padding} leaves nothing of {self.image.size} px in some crops; type "
                            "augment.train.padding=4, or another border below the size of an image")  # fmt: skip
        if self.crop == "centre" and self.resize is not None and self.resize < self.image.size:
            raise UserError(f"augment: resize={self.resize} is less than the backbone's {self.image.size} px, so no crop "
                            f"fits; type augment.test.resize={self.image.size} or more")  # fmt: skip

    @property
    def has_chance(self) -> bool:
        return self.flip > 0 or self.crops_by_chance or self.randaugment

    @property
    def crops_by_chance(self) -> bool:
        return self.crop in ("padded", "random_resized")

    @property
    def variants(self) -> tuple["View", ...]:
        """All that an image can become: itself, or itself and its mirror; none where the crop is drawn."""
        if self.crops_by_chance or self.randaugment:
            return ()
        return tuple(replace(self, flip=flip) for flip in ((0.0, 1.0) if self.flip else (0.0,)))

    def coins(self, count: int, random: torch.Generator) -> Tensor:
        """(count,) which images are mirrored."""
        return torch.rand(count, generator=random) < self.flip

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
        mirror += ", RandAugment m9-mstd0.5" if self.randaugment else ""
        mean, std = ("/".join(f"{v:g}" for v in values) for values in (self.image.mean, self.image.std))
        return f"{crop}{mirror}, [0, 1], mean {mean}, std {std}"

    @property
    def needs(self) -> tuple[int | None, str]:
        """Shorter side and filter at which photographs may be kept without a change of the result; None: as they are."""
        return (self.resize or self.image.size, self.filter) if self.crop == "centre" else (None, self.filter)

    def __call__(
        self, pixels: Tensor | list[np.ndarray], random: torch.Generator | None = None, device: str | torch.device = "cpu"
    ) -> Tensor:
        """(batch, height, 3, width) uint8, or a list of (height, width, 3) → (batch, 3, size, size) float32."""
        mean, std = (channels(tuple(values), torch.device(device)) for values in (self.image.mean, self.image.std))
        normalised = lambda levels: levels.div_(255).sub_(mean).div_(std)  # noqa: E731
        if self.randaugment:
            return normalised(rand_augment(self._cropped(pixels, random, device, lambda levels: levels), random))
        return self._cropped(pixels, random, device, normalised)

    def geometry(self, pixels: Tensor | list[np.ndarray], random: torch.Generator | None = None) -> Tensor:
        """The crop alone, in grey levels: (batch, 3, size, size) float32 with whole numbers from 0 to 255."""
        return self._cropped(pixels, random, "cpu", lambda levels: levels)

    def _cropped(self, pixels, random, device, finish: Callable[[Tensor], Tensor]) -> Tensor:
        """`finish` works in place on a few images at a time, while they are in the processor's cache."""
        if self.has_chance and random is None:
            raise ValueError("a view with chance in it needs a random generator")
        if isinstance(pixels, list):
            levels = sent(torch.from_numpy(self._each(pixels, random)), device)
            return finish(levels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format))
        batch, height, _, width = pixels.shape
        pixels, size = sent(pixels, device), self.image.size
        if self.crop == "whole" and not self.flip and height == width == size:
            return finish(pixels.permute(0, 2, 1, 3).to(torch.float32, memory_format=torch.contiguous_format))
        down, across = self._matrices(batch, height, width, random, pixels.device)
        if self.flip:
            mirrored = sent(self.coins(batch, random), pixels.device)
            across = torch.where(mirrored[:, None, None], across.flip(1), across)
        out = room(batch, 3, size, size, device=pixels.device)
        few = max(1, CACHE // (3 * size * size)) if pixels.device.type == "cpu" else batch
        for start in range(0, batch, few):
            part = slice(start, start + few)
            own = (matrix if len(matrix) == 1 else matrix[part] for matrix in (down, across))
            finish(out[part].copy_(resample(pixels[part], *own)))
        return out

    def _matrices(
        self, batch: int, height: int, width: int, random: torch.Generator | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """One (1 or batch, size, height) and one (1 or batch, size, width) matrix.

        Without chance in the crop they are float64, which makes the result exact; with it float32, twice as fast. What is
        drawn is drawn on the CPU, so that a seed means the same on a GPU.
        """
        size, how = self.image.size, dict(kind=self.filter, dtype=torch.float32)
        if self.crop == "whole":
            return stretched(height, width, size, self.filter, device)
        if self.crop == "centre":
            return centred(height, width, self.resize or size, size, self.filter, device)
        if self.crop == "padded":
            if height != size or width != size:
                raise UserError(KEEPS_SCALE.format(f"{height}x{width}", size))
            top, left = torch.randint(-self.padding, self.padding + 1, (2, batch), generator=random)
            tall = wide = torch.full((batch,), size)
        else:
            top, left, tall, wide = random_boxes(batch, height, width, self.scale, self.ratio, random)
        top, left, tall, wide = sent(torch.stack([side.float() for side in (top, left, tall, wide)]), device)
        return coefficients(top, tall, height, size, **how), coefficients(left, wide, width, size, **how)

    def _each(self, photos: list[np.ndarray], random: torch.Generator | None) -> np.ndarray:
        """Photographs of many sizes: (batch, size, size, 3) uint8."""
        size, count = self.image.size, len(photos)
        tall, wide = torch.tensor([photo.shape[:2] for photo in photos]).unbind(1)
        if self.crop == "padded":
            raise UserError(KEEPS_SCALE.format("of many sizes", size))
        if self.crop == "centre":
            levels = each(centre, photos, [(self.resize or size, self.filter)] * count, size)
        else:
            boxes = [torch.zeros(count), torch.zeros(count), tall, wide]
            if self.crop == "random_resized":
                boxes = random_boxes(count, tall, wide, self.scale, self.ratio, random)
            levels = each(boxed, photos, [(box, self.filter) for box in zip(*(b.int().tolist() for b in boxes))], size)
        if self.flip:
            mirrored = self.coins(count, random).numpy()
            levels[mirrored] = levels[mirrored, :, ::-1]
        return levels


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def stretched(height: int, width: int, size: int, kind: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """The matrices of a resize without a crop; images of one size share them."""
    down, across = (exact_coefficients(length, size, kind) for length in (height, width))
    return down.to(device), across.to(device)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def centred(height: int, width: int, resize: int, size: int, kind: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """The matrices of a centre crop; images of one size share them."""
    pair, (wide, tall) = [], scaled(width, height, resize)
    for length, target in ((height, tall), (width, wide)):
        start = round((target - size) / 2)
        pair.append(exact_coefficients(length, target, kind)[:, start : start + size].to(device))
    return pair[0], pair[1]


def exact_coefficients(length: int, target: int, kind: str) -> Tensor:
    """(1, target, length): a whole axis resized."""
    return coefficients(torch.zeros(1), torch.tensor([length]), length, target, kind=kind, dtype=torch.float64)


def views(image: ImageSpec, *, train: dict, test: dict) -> tuple[View, View]:
    """The two views of a data set: with chance for training, without for everything else.

    `resize` is said for a backbone of 224 px, as the papers have it; for another size it is in proportion.
    """
    for name, node in (("train", train), ("test", test)):
        check(View, f"augment.{name}", node)
    nodes = ({key: tuple(v) if isinstance(v, list) else v for key, v in node.items()} for node in (train, test))
    nodes = [node | ({"resize": round(node["resize"] * image.size / 224)} if node.get("resize") else {}) for node in nodes]
    pair = tuple(View(image, **node) for node in nodes)
    if pair[1].has_chance:
        raise UserError("augment.test must be without chance: crop=whole or crop=centre, flip=0")
    return pair


def span(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.3g}–{pair[1]:.3g}"
