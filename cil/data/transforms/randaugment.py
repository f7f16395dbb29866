"""RandAugment on whole batches with the same arithmetic as Pillow (timm's `rand-m9-mstd0.5-inc1`).

Images are (batch, 3, height, width) float32 with integer values from 0 to 255. Each operation is applied at once to all images
that drew it, with a magnitude `m` from 0 to 10 per image, so that a batch takes about thirty calls instead of two per image.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cil.common.transfer import channels, sent

FILL = (124.0, 116.0, 104.0)  # colour of pixels that come from outside the image
LAYERS, CHANCE = 2, 0.5  # operations drawn per image, and the probability that each is applied
MAGNITUDE, SPREAD = 9.0, 0.5

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]  # images, magnitudes, signs → images


def rand_augment(levels: Tensor, random: torch.Generator) -> Tensor:
    """Apply RandAugment to (batch, 3, height, width) images and return new images of that shape."""
    for _ in range(LAYERS):
        which = torch.randint(len(OPERATIONS), (len(levels),), generator=random)
        applied = torch.rand(len(levels), generator=random) < CHANCE
        magnitudes = (MAGNITUDE + SPREAD * torch.randn(len(levels), generator=random)).clamp(0, 10)
        signs = 1.0 - 2 * (torch.rand(len(levels), generator=random) < 0.5)
        # sort images by operation; those without one come last
        number = torch.where(applied, which, len(OPERATIONS))
        order = number.argsort(stable=True)
        many = number.bincount(minlength=len(OPERATIONS) + 1).tolist()
        drawn = (sent(values, levels.device).split(many) for values in (magnitudes[order], signs[order]))
        parts = list(zip([*OPERATIONS.values(), unchanged], levels[sent(order, levels.device)].split(many), *drawn))
        done = [operation(own, *values) for operation, own, *values in parts if len(own)]
        levels = torch.cat(done)[sent(order.argsort(), levels.device)]
    return levels


def unchanged(levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    return levels


# --- colours ----------------------------------------------------------------------------------------------------------


def autocontrast(levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    low, high = levels.amin((2, 3), keepdim=True), levels.amax((2, 3), keepdim=True)
    scale = 255 / (high - low).double()
    stretched = (levels * scale - low * scale).trunc().clamp(0, 255).float()
    return torch.where(high > low, stretched, levels)


def equalize(levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    flat = levels.flatten(2).long()
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.long, device=flat.device).scatter_add_(
        2, flat, torch.ones_like(flat)
    )
    last = counts.gather(2, flat.amax(2, keepdim=True))
    step = (flat.shape[2] - last) // 255
    before = counts.cumsum(2) - counts
    table = (step // 2 + before) // step.clamp_min(1)
    found = table.clamp_max(255).gather(2, flat).view_as(levels).to(levels)
    return torch.where(step[..., None] > 0, found, levels)


def invert(levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    return 255 - levels


def posterize(levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    lost = 2 ** (4 + (0.4 * m).floor())
    return (levels / shaped(lost)).floor() * shaped(lost)


def solarize(levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    return torch.where(levels < shaped(256 - (25.6 * m).floor()), levels, 255 - levels)


def solarize_add(levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    return torch.where(levels < 128, (levels + shaped((11 * m).floor())).clamp_max(255), levels)


# --- blends with a degenerate image -----------------------------------------------------------------------------------


def color(levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    return blended(grey(levels), levels, m, sign)


def contrast(levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    mean = (grey(levels).double().mean((2, 3), keepdim=True) + 0.5).floor().float()
    return blended(mean, levels, m, sign)


def brightness(levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    return blended(torch.zeros_like(levels), levels, m, sign)


def sharpness(levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    kernel = torch.ones(3, 1, 3, 3, device=levels.device)
    kernel[:, :, 1, 1] = 5
    smooth = levels.clone()  # the border is not smoothed
    smooth[:, :, 1:-1, 1:-1] = (F.conv2d(levels, kernel, groups=3) / 13 + 0.5).floor().clamp(0, 255)
    return blended(smooth, levels, m, sign)


def blended(dull: Tensor, levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    factor = shaped((1 + sign * 0.09 * m).clamp_min(0.1))
    return (dull + factor * (levels - dull)).trunc().clamp(0, 255)


def grey(levels: Tensor) -> Tensor:
    red, green, blue = levels.long().unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(levels)[:, None]


# --- geometry ---------------------------------------------------------------------------------------------------------


def rotate(levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    angle = torch.deg2rad(-(sign * 3 * m).double())
    cos, sin = angle.cos(), angle.sin()
    high, wide = levels.shape[2:]
    x, y = wide / 2, high / 2
    return moved(levels, cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


def shear_x(levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    return slid(levels, sign * 0.03 * m, 0)


def shear_y(levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    return shear_x(levels.mT, m, sign).mT


def translate_x(levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    return slid(levels, 0, sign * 0.045 * m * levels.shape[3])


def translate_y(levels: Tensor, m: Tensor, sign: Tensor) -> Tensor:
    return translate_x(levels.mT, m, sign).mT


def slid(levels: Tensor, slope: Tensor | float, shift: Tensor | float) -> Tensor:
    """Shear and shift rows: pixel x comes from x + slope · y + shift, by cubic interpolation of four neighbours."""
    count, _, high, wide = levels.shape
    nothing = torch.zeros(count, dtype=torch.double, device=levels.device)
    slope, shift = ((nothing + value).view(-1, 1, 1) for value in (slope, shift))
    y, x = (torch.arange(n, device=levels.device, dtype=torch.double) + 0.5 for n in (high, wide))
    across = x + slope * y[:, None] + shift
    columns, share = neighbours(across, wide)
    found = cubic([taken(levels, column) for column in columns], share[:, None])
    return framed(found, levels, (across >= 0) & (across < wide))


def moved(levels: Tensor, *matrix: Tensor) -> Tensor:
    """Affine transform: pixel (x, y) comes from (a·x + b·y + c, d·x + e·y + f), by Pillow's bicubic interpolation."""
    high, wide = levels.shape[2:]
    a, b, c, d, e, f = (v.view(-1, 1, 1) for v in matrix)
    y, x = torch.meshgrid(*(torch.arange(n, device=levels.device) + 0.5 for n in (high, wide)), indexing="ij")
    across, down = a * x + b * y + c, d * x + e * y + f
    (columns, beside), (rows, below) = neighbours(across, wide), neighbours(down, high)
    flat = levels.flatten(2)[:, :, None]
    places = [[(row * wide + column).flatten(1)[:, None] for column in columns] for row in rows]
    lines = [cubic([taken(flat, place).view_as(levels) for place in line], beside[:, None]) for line in places]
    inside = (across >= 0) & (across < wide) & (down >= 0) & (down < high)
    return framed(cubic(lines, below[:, None]), levels, inside)


def neighbours(at: Tensor, length: int) -> tuple[list[Tensor], Tensor]:
    """Return the four pixels around each position, clamped to the image, and the distance from the second one."""
    at = at - 0.5
    first = at.floor()
    return [(first.long() + k).clamp(0, length - 1) for k in range(-1, 3)], at - first


def taken(levels: Tensor, places: Tensor) -> Tensor:
    """Gather (n, 3, rows, length) at `places` (n, rows, k) along the last axis, as float64."""
    return levels.gather(3, places[:, None].expand(-1, levels.shape[1], -1, -1)).double()


def framed(found: Tensor, levels: Tensor, inside: Tensor) -> Tensor:
    return torch.where(inside[:, None], found.trunc().clamp(0, 255).to(levels), channels(FILL, levels.device))


def cubic(four: list[Tensor], d: Tensor) -> Tensor:
    """Interpolate at `d` in [0, 1] between the 2nd and 3rd of four values, in Pillow's order: results are truncated."""
    one, two, three, last = four
    return two + d * (three - one + d * (2 * (one - two) + three - last + d * (two - one + last - three)))


def shaped(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": autocontrast, "Equalize": equalize, "Invert": invert, "Rotate": rotate, "Posterize": posterize,
    "Solarize": solarize, "SolarizeAdd": solarize_add, "Color": color, "Contrast": contrast, "Brightness": brightness,
    "Sharpness": sharpness, "ShearX": shear_x, "ShearY": shear_y, "TranslateX": translate_x, "TranslateY": translate_y,
}  # fmt: skip
