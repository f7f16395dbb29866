"""Each operation against timm's on Pillow, image by image; and how often they are drawn."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm_ops

from cil.data.transforms import randaugment
from cil.data.transforms.randaugment import FILL, OPERATIONS, rand_augment

GIVEN = dict(fillcolor=tuple(map(int, FILL)), resample=Image.BICUBIC)
ARGUMENT = {  # what timm's operation is called with, at magnitude m and sign s
    "AutoContrast": lambda m, s: (), "Equalize": lambda m, s: (), "Invert": lambda m, s: (),
    "Rotate": lambda m, s: (3 * m * s,), "Posterize": lambda m, s: (4 - int(0.4 * m),),
    "Solarize": lambda m, s: (256 - int(25.6 * m),),
    "SolarizeAdd": lambda m, s: (int(11 * m),), "ShearX": lambda m, s: (0.03 * m * s,), "ShearY": lambda m, s: (0.03 * m * s,),
    "TranslateX": lambda m, s: (0.045 * m * s,), "TranslateY": lambda m, s: (0.045 * m * s,),
    **{name: (lambda m, s: (max(0.1, 1 + 0.09 * m * s),)) for name in ("Color", "Contrast", "Brightness", "Sharpness")},
}  # fmt: skip
TIMM = {
    "AutoContrast": timm_ops.auto_contrast, "Equalize": timm_ops.equalize, "Invert": timm_ops.invert, "Rotate": timm_ops.rotate,
    "Posterize": timm_ops.posterize, "Solarize": timm_ops.solarize, "SolarizeAdd": timm_ops.solarize_add,
    "Color": timm_ops.color, "Contrast": timm_ops.contrast, "Brightness": timm_ops.brightness, "Sharpness": timm_ops.sharpness,
    "ShearX": timm_ops.shear_x, "ShearY": timm_ops.shear_y, "TranslateX": timm_ops.translate_x_rel,
    "TranslateY": timm_ops.translate_y_rel,
}  # fmt: skip


def pictures(count: int = 12) -> torch.Tensor:
    """Smooth ones, noise, few levels, and one of a single colour."""
    random = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 255, 32)
    smooth = (ramp[:, None] + ramp) / 2 * torch.rand(count, 3, 1, 1, generator=random)
    noise = 256 * torch.rand(count, 3, 32, 32, generator=random)
    made = torch.where(torch.arange(count).view(-1, 1, 1, 1) % 2 == 0, smooth, noise).floor().clamp(0, 255)
    made[3] = (made[3] / 64).floor() * 64
    made[5] = 77
    return made


def by_pillow(name: str, image: torch.Tensor, m: float, sign: float) -> np.ndarray:
    pixels = Image.fromarray(image.permute(1, 2, 0).byte().numpy())
    return np.asarray(TIMM[name](pixels, *ARGUMENT[name](m, sign), **GIVEN)).astype(int)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_pillows(name):
    images = pictures()
    m, sign = torch.linspace(0.3, 9.99, len(images)), torch.tensor([1.0, -1.0, -1.0]).repeat(len(images) // 3)
    found = OPERATIONS[name](images, m, sign).permute(0, 2, 3, 1).numpy()
    assert (found == np.round(found)).all() and found.min() >= 0 and found.max() <= 255
    off = [np.abs(f - by_pillow(name, i, float(k), float(s))) for f, i, k, s in zip(found, images, m, sign)]
    moved = name in ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
    assert max(o.max() for o in off) <= 1  # Pillow computes in single precision in places
    assert np.mean(np.stack(off) > 0) < (0.01 if moved else 0.002), name


def test_names_are_those_of_the_library():
    assert set(OPERATIONS) == set(TIMM) and len(OPERATIONS) == 15


def test_draws(monkeypatch):
    """Two operations an image, with replacement, each applied in half of the cases, signs and magnitudes as said."""
    seen, drawn = Counter(), []

    def spy(name: str):
        def noted(levels, m, sign):
            seen[name] += len(levels)
            drawn.append((m, sign))
            return levels

        return noted

    monkeypatch.setattr(randaugment, "OPERATIONS", {name: spy(name) for name in OPERATIONS})
    rand_augment(torch.zeros(15_000, 3, 1, 1), torch.Generator().manual_seed(0))
    assert all(abs(count - 1000) < 150 for count in seen.values()) and len(seen) == 15
    m, sign = (torch.cat(parts) for parts in zip(*drawn))
    assert abs(float(m.mean()) - 9) < 0.02 and 0.45 < float(m.std()) < 0.5 and float(m.max()) == 10
    assert set(sign.tolist()) == {-1.0, 1.0} and abs(float(sign.mean())) < 0.03


def test_the_same_stream_gives_the_same_images():
    images = pictures()
    one, two = (rand_augment(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two) and not torch.equal(one, images) and torch.equal(images, pictures())
