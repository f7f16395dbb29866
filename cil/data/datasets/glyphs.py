"""Split-Glyphs: a benchmark of 100 characters drawn from installed fonts, which needs no download.

The fonts are the 12 DejaVu faces that matplotlib ships: nine for training and three, one of each family, only for the test.
Pixels are computed by element-wise NumPy operations with a stable random generator, so they are the same on every machine.
Only another version of FreeType (inside Pillow) can change them, which changes the data digest of a run.
"""

import hashlib
import importlib.util
import unicodedata
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from cil.common.errors import UserError
from cil.common.files import keep_or_make
from cil.common.ranges import Count, Fraction, Range, Seed, Share, check
from cil.data.images import Images

FOLDER = Path(__file__).with_suffix("")  # lists of characters
TEST_FACES = ("DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSerif-Italic")
TRAIN_FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-BoldOblique", "DejaVuSansMono", "DejaVuSansMono-Oblique",
               "DejaVuSansMono-BoldOblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic")  # fmt: skip
PAINTING = 1  # increase it when drawing or painting changes, so that cached pixels are made again
CANVAS, EM, SIZE = 64, 40, 32  # pixels: drawing canvas, font size on it, finished image


@dataclass(frozen=True)
class Jitter:
    """Ranges of the random changes to each drawing of a character."""

    rotation: Annotated[float, Range(0, 3.15, example=0.1)] = 0.25  # radians, in both directions
    scale: Fraction = 0.20  # fraction, larger or smaller
    shear: Share = 0.20
    shift: Annotated[float, Range(0, SIZE, example=2.0)] = 2.0  # pixels of the finished image, in both directions
    noise: Share = 0.06  # standard deviation, as a fraction of the grey range


def glyphs(root: str, *, train_per_class: Count, test_per_class: Count, jitter: dict, seed: Seed) -> Images:
    """Split-Glyphs: 100 classes with `train_per_class` images from nine faces and `test_per_class` from three others."""
    return _drawn("glyphs", code_points("classes"), root, train_per_class, test_per_class, jitter, seed)


def alphabet(
    root: str, *, script: str, classes: Count, train_per_class: Count, test_per_class: Count, jitter: dict, seed: Seed
) -> Images:
    """The first `classes` of the benchmark's characters whose Unicode names begin with `script`, for example `latin`."""
    points = tuple(point for point in code_points("classes") if name(point).startswith(f"{script} "))
    if not 0 < classes <= len(points):
        raise UserError(f"{classes} characters that are {script} are asked for, Split-Glyphs has {len(points)}; type "
                        "dataset.script=latin dataset.classes=30")  # fmt: skip
    return _drawn(f"glyphs_{script}", points[:classes], root, train_per_class, test_per_class, jitter, seed)


def _drawn(
    title: str, points: tuple[int, ...], root: str, train_per_class: int, test_per_class: int, jitter: dict, seed: int
) -> Images:
    """Load the images from the cache below `root`, or draw them."""
    check(Jitter, "dataset.jitter", jitter)
    size = dict(train=train_per_class, test=test_per_class)
    recipe = repr((points, size, asdict(Jitter(**jitter)), seed, TRAIN_FACES, TEST_FACES, CANVAS, EM, SIZE, versions()))
    file = Path(root) / "glyphs" / f"{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.safetensors"

    def make() -> dict[str, torch.Tensor]:
        made = {}
        for split, faces in (("train", TRAIN_FACES), ("test", TEST_FACES)):
            random = np.random.RandomState([seed, split == "test"])
            masks = np.stack([draw(point, face) for point in points for face in faces])
            labels = np.repeat(np.arange(len(points)), size[split])
            face = np.tile(np.arange(size[split]) % len(faces), len(points))  # every face equally often
            pixels = paint(masks[labels * len(faces) + face], Jitter(**jitter), random)
            made[split] = torch.from_numpy(pixels)
            made[f"{split}_labels"] = torch.from_numpy(labels)
        return made

    made = keep_or_make(file, make, optional=True)
    return Images(title, made["train"], made["train_labels"], made["test"], made["test_labels"], tuple(map(name, points)))


@cache
def code_points(which: str) -> tuple[int, ...]:
    """Return the characters of `classes.txt` or `base.txt`, whose lines have a code point and its name."""
    lines = (FOLDER / f"{which}.txt").read_text().splitlines()
    return tuple(int(line.split()[0].removeprefix("U+"), 16) for line in lines if line.startswith("U+"))


def name(point: int) -> str:
    """Return the Unicode name of a character in lower case."""
    return unicodedata.name(chr(point)).lower()


def versions() -> tuple[str, ...]:
    """Return the versions that pixels depend on: of FreeType, of the fonts (in matplotlib) and of this file."""
    from importlib.metadata import version

    from PIL import features

    return str(features.version("freetype2")), version("matplotlib"), str(PAINTING)


@cache
def _font(face: str) -> ImageFont.FreeTypeFont:
    found = importlib.util.find_spec("matplotlib")  # importing it would take a second
    assert found is not None and found.origin is not None
    package = Path(found.origin).parent
    return ImageFont.truetype(package / "mpl-data" / "fonts" / "ttf" / f"{face}.ttf", EM, layout_engine=ImageFont.Layout.BASIC)


def draw(point: int, face: str) -> np.ndarray:
    """Draw a character on a fixed baseline: (CANVAS, CANVAS) uint8, where 255 is ink."""
    image = Image.new("L", (CANVAS, CANVAS), 0)
    ImageDraw.Draw(image).text((CANVAS / 2, CANVAS * 0.7), chr(point), font=_font(face), fill=255, anchor="ms")
    return np.asarray(image)


def paint(masks: np.ndarray, jitter: Jitter, random: np.random.RandomState, *, block: int = 256) -> np.ndarray:
    """Warp and colour drawings (n, CANVAS, CANVAS) and add noise to them: (n, SIZE, 3, SIZE) uint8."""
    blocks = [_paint(masks[start : start + block], jitter, random) for start in range(0, len(masks), block)]
    return np.concatenate(blocks)


def _paint(masks: np.ndarray, jitter: Jitter, random: np.random.RandomState) -> np.ndarray:
    ink = _warp(masks, jitter, random)[:, :, None, :]  # (n, SIZE, 1, SIZE)
    back, front = random.uniform(size=(2, len(masks), 1, 3, 1)).astype(np.float32)
    light = back.mean(axis=2, keepdims=True) > 0.5
    front = np.where(light, 0.4 * front, 0.6 + 0.4 * front)  # always light on dark or dark on light
    noise = random.normal(size=(len(masks), SIZE, 3, SIZE)).astype(np.float32) * np.float32(jitter.noise)
    pixels = back + ink * (front - back) + noise
    return np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)


def _warp(masks: np.ndarray, jitter: Jitter, random: np.random.RandomState) -> np.ndarray:
    """Apply a random affine transform to each drawing, with bilinear sampling: (n, SIZE, SIZE) float32 in [0, 1]."""
    n = len(masks)
    angle, stretch, shear = (random.uniform(-limit, limit, n) for limit in (jitter.rotation, jitter.scale, jitter.shear))
    shift = random.uniform(-jitter.shift, jitter.shift, (n, 2)) * CANVAS / SIZE
    zoom = CANVAS / SIZE / (1 + stretch)
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    rows = np.stack([np.stack([cos, cos * shear - sin], 1), np.stack([sin, sin * shear + cos], 1)], 1).astype(np.float32)
    grid = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
    centre = (CANVAS - 1) / 2 + shift.astype(np.float32)
    x = rows[:, 0, 0, None, None] * grid + rows[:, 0, 1, None, None] * grid[:, None] + centre[:, 0, None, None]
    y = rows[:, 1, 0, None, None] * grid + rows[:, 1, 1, None, None] * grid[:, None] + centre[:, 1, None, None]
    soft = np.pad(masks, ((0, 0), (1, 1), (1, 1))).astype(np.float32) / 255
    soft = (soft[:, 1:, 1:] + soft[:, :-1, 1:] + soft[:, 1:, :-1] + soft[:, :-1, :-1]) / 4  # mean of 2 × 2 pixels
    edge = soft.shape[1]  # CANVAS + 1; its pixel k is centred at canvas position k - 1/2
    x, y = np.clip(x + 0.5, 0, edge - 1.001), np.clip(y + 0.5, 0, edge - 1.001)
    left, top = x.astype(np.int64), y.astype(np.int64)
    flat = soft.reshape(-1)
    corner = (np.arange(n)[:, None, None] * edge + top) * edge + left
    dx, dy = x - left, y - top
    upper = flat[corner] * (1 - dx) + flat[corner + 1] * dx
    lower = flat[corner + edge] * (1 - dx) + flat[corner + edge + 1] * dx
    return upper * (1 - dy) + lower * dy
