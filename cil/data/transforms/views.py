"""Image transforms: crop, resize, flip and normalise whole batches by two matrix products, with Pillow's coefficients.

Resampling along an axis is linear, so the crop of an image is one (n_out, n_in) matrix per axis. A horizontal flip is the
same matrix with its columns reversed. As in Pillow, values are rounded to 8 bits after each pass, so results differ by at most
one grey level from a per-image pipeline with Pillow, and a transform without randomness gives identical bits. The width is
resized before the height, as in Pillow up to version 12. Pillow 13 and later start with the height if it shrinks by more than
twice as many pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from cil.common.errors import UserError
from cil.common.ranges import Count, Positive, Range, Share, Whole, check
from cil.common.transfer import channels, sent
from cil.data.transforms.crops import boxed, centre, coefficients, each, random_boxes, resample, room, scaled
from cil.data.transforms.randaugment import rand_augment

KEEPS_SCALE = ("augment: crop=padded keeps the scale, but images are {} and the backbone wants {}; type "
               "augment=random_resized_crop")  # fmt: skip
Area = Annotated[float, Range(0, 1, open="least", example=1.0)]
CACHE = 1 << 18  # floats that fit easily into the cache of a CPU core


@dataclass(frozen=True)
class ImageSpec:
    """The image size and normalization that a backbone expects."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class View:
    """A transform from stored pixels to the input of a backbone: crop, resize, flip, RandAugment and normalization."""

    image: ImageSpec
    crop: Literal["whole", "centre", "padded", "random_resized"] = "whole"
    flip: Share = 0.0  # probability of a horizontal flip
    randaugment: bool = False  # applied after the crop
    filter: Literal["bilinear", "bicubic"] = "bilinear"
    resize: Count | None = None  # for centre: the length of the shorter side before the crop
    padding: Whole = 0  # for padded: width of the black border in pixels
    scale: tuple[Area, Area] = (0.08, 1.0)  # for random_resized: fraction of the area
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        for key, pair in (("scale", self.scale), ("ratio", self.ratio)):
            if pair[0] > pair[1]:
                raise UserError(f"augment: {key}={list(pair)} decreases; type {key}=[{pair[1]},{pair[0]}]")
        if self.padding >= self.image.size:
            raise UserError(f"augment: padding={self.padding} leaves nothing of {self.image.size} px in some crops; type "
                            "augment.train.padding=4, or another number below the image size")  # fmt: skip
        if self.crop == "centre" and self.resize is not None and self.resize < self.image.size:
            raise UserError(f"augment: resize={self.resize} is less than the backbone's {self.image.size} px; "
                            f"type augment.test.resize={self.image.size} or more")  # fmt: skip

    @property
    def has_chance(self) -> bool:
        """Whether the transform is random."""
        return self.flip > 0 or self.crops_by_chance or self.randaugment

    @property
    def crops_by_chance(self) -> bool:
        """Whether the crop is random."""
        return self.crop in ("padded", "random_resized")

    @property
    def variants(self) -> tuple["View", ...]:
        """The deterministic transforms that this one chooses from: without and with a flip. Empty if it has infinitely many."""
        if self.crops_by_chance or self.randaugment:
            return ()
        return tuple(replace(self, flip=flip) for flip in ((0.0, 1.0) if self.flip else (0.0,)))

    def coins(self, count: int, random: torch.Generator) -> Tensor:
        """Draw which of `count` images are flipped: (count,) bool."""
        return torch.rand(count, generator=random) < self.flip

    def words(self) -> str:
        """Return the transform in words. The text is part of the identity of a run and of cached features."""
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
        """The shorter side and the filter with which photographs can be stored without changing the result; None: unresized."""
        return (self.resize or self.image.size, self.filter) if self.crop == "centre" else (None, self.filter)

    def __call__(
        self, pixels: Tensor | list[np.ndarray], random: torch.Generator | None = None, device: str | torch.device = "cpu"
    ) -> Tensor:
        """Transform pixels, (batch, height, 3, width) uint8 or a list of (height, width, 3): (batch, 3, size, size) float32."""
        mean, std = (channels(tuple(values), torch.device(device)) for values in (self.image.mean, self.image.std))
        normalised = lambda levels: levels.div_(255).sub_(mean).div_(std)  # noqa: E731
        if self.randaugment:
            return normalised(rand_augment(self.geometry(pixels, random, device), random))
        return self._cropped(pixels, random, device, normalised)

    def geometry(
        self, pixels: Tensor | list[np.ndarray], random: torch.Generator | None = None, device: str | torch.device = "cpu"
    ) -> Tensor:
        """Crop and flip only: (batch, 3, size, size) float32 with integer values from 0 to 255."""
        return self._cropped(pixels, random, device, lambda levels: levels)

    def _cropped(self, pixels, random, device, finish: Callable[[Tensor], Tensor]) -> Tensor:
        """Crop and flip, then call `finish` in place on a few images at a time, while they are in the CPU cache."""
        if self.has_chance and random is None:
            raise ValueError("a random transform needs a random generator")
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
        """Return the matrices (1 or batch, size, height) and (1 or batch, size, width) of the crop.

        For a deterministic crop they are float64, which makes the result exact. For a random crop they are float32, which is
        twice as fast. Random numbers are drawn on the CPU, so that a seed gives the same crops on a GPU.
        """
        size = self.image.size
        if not self.crops_by_chance:
            wide, tall = (size, size) if self.crop == "whole" else scaled(width, height, self.resize or size)
            return centred(height, width, tall, wide, size, self.filter, device)
        if self.crop == "padded":
            if height != size or width != size:
                raise UserError(KEEPS_SCALE.format(f"{height}x{width}", size))
            top, left = torch.randint(-self.padding, self.padding + 1, (2, batch), generator=random)
            tall = wide = torch.full((batch,), size)
        else:
            top, left, tall, wide = random_boxes(batch, height, width, self.scale, self.ratio, random)
        top, left, tall, wide = sent(torch.stack([side.float() for side in (top, left, tall, wide)]), device)
        down = coefficients(top, tall, height, size, self.filter, torch.float32)
        return down, coefficients(left, wide, width, size, self.filter, torch.float32)

    def _each(self, photos: list[np.ndarray], random: torch.Generator | None) -> np.ndarray:
        """Crop and flip photographs of different sizes: (batch, size, size, 3) uint8."""
        size, count = self.image.size, len(photos)
        tall, wide = torch.tensor([photo.shape[:2] for photo in photos]).unbind(1)
        if self.crop == "padded":
            raise UserError(KEEPS_SCALE.format("of many sizes", size))
        if self.crop == "centre":
            levels = each(centre, photos, [(self.resize or size, self.filter)] * count, size)
        else:
            boxes: Sequence[Tensor] = [torch.zeros(count), torch.zeros(count), tall, wide]
            if self.crop == "random_resized":
                boxes = random_boxes(count, tall, wide, self.scale, self.ratio, random)
            levels = each(boxed, photos, [(box, self.filter) for box in zip(*(b.int().tolist() for b in boxes))], size)
        if self.flip:
            mirrored = self.coins(count, random).numpy()
            levels[mirrored] = levels[mirrored, :, ::-1]
        return levels


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def centred(height: int, width: int, tall: int, wide: int, size: int, kind: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the cached float64 matrices that resize to `tall` × `wide` pixels and crop the central `size` × `size`."""
    pair = []
    for length, target in ((height, tall), (width, wide)):
        matrix = coefficients(torch.zeros(1), torch.tensor([length]), length, target, kind=kind, dtype=torch.float64)
        start = round((target - size) / 2)
        pair.append(matrix[:, start : start + size].to(device))
    return pair[0], pair[1]


def views(image: ImageSpec, *, train: dict, test: dict) -> tuple[View, View]:
    """Return the training transform (random) and the evaluation transform (deterministic) of a dataset.

    `train` and `test` are the settings `augment.train` and `augment.test`. Their `resize` is given for a backbone of 224 px, as
    in papers, and scaled in proportion for other image sizes.
    """
    for name, node in (("train", train), ("test", test)):
        check(View, f"augment.{name}", node)
    pair = View(image, **_fields(train, image.size)), View(image, **_fields(test, image.size))
    if pair[1].has_chance:
        raise UserError("augment.test must be deterministic; type crop=whole or crop=centre, and flip=0")
    return pair


def _fields(settings: dict[str, Any], size: int) -> dict[str, Any]:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    return fields | ({"resize": round(fields["resize"] * size / 224)} if fields.get("resize") else {})


def span(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.3g}–{pair[1]:.3g}"
