"""The arithmetic of ARI (ECCV 2022): disturbed backgrounds, and the updates of several tasks as one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cil.common.transfer import channels


def limits(strength: float, mean: Sequence[float], std: Sequence[float], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How far a channel may be moved by `strength` grey levels, and its darkest and brightest value: (3, 1, 1) each."""
    mean, std = (channels(tuple(values), like.device)[0].to(like.dtype) for values in (mean, std))
    return strength / 255 / std, (0 - mean) / std, (1 - mean) / std


def disturbed(
    images: Tensor, noise: Tensor, gradient: Tensor, background: Tensor, most: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """One step of `gradient`'s sign from `noise`, as strong as the background is, inside what `limits` gives."""
    far, darkest, brightest = most
    moved = ((noise + far * gradient.sign()) * background).clamp(-far, far)
    return (images + moved).clamp(darkest, brightest)


def fused(base: Tensor, found: Sequence[Tensor], share: float, least: float) -> Tensor:
    """`share` of the way from `base` to a mean of what was `found` from there, with weights d² + `least` for distances d."""
    weights = torch.stack([(own - base).abs().sum() for own in found]).square() + least
    mean = sum(weight * own for weight, own in zip(weights / weights.sum(), found, strict=True))
    return torch.lerp(base, mean, share)


@torch.no_grad()
def put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Each takes its value."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
