"""The computations of ARI (ECCV 2022): adversarial noise on the background, and fusing the updates of several tasks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cil.common.transfer import channels


def limits(strength: float, mean: Sequence[float], std: Sequence[float], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return `strength` grey levels, black and white in normalised pixel values: (3, 1, 1) each."""
    centre, scale = (channels(tuple(values), like.device)[0].to(like.dtype) for values in (mean, std))
    return strength / 255 / scale, (0 - centre) / scale, (1 - centre) / scale


def disturbed(
    images: Tensor, noise: Tensor, gradient: Tensor, background: Tensor, most: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Take one signed gradient step from `noise`, weighted by the `background` map, and clamp it to `most` (see `limits`)."""
    far, darkest, brightest = most
    moved = ((noise + far * gradient.sign()) * background).clamp(-far, far)
    return (images + moved).clamp(darkest, brightest)


def fused(base: Tensor, found: Sequence[Tensor], share: float, least: float) -> Tensor:
    """Move from `base` by `share` towards the mean of `found`, with weights d² + `least` for distances d from `base`."""
    weights = torch.stack([(own - base).abs().sum() for own in found]).square() + least
    mean = sum(weight * own for weight, own in zip(weights / weights.sum(), found, strict=True))
    return torch.lerp(base, mean, share)


@torch.no_grad()
def put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy the values into the parameters."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
