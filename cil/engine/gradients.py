"""Computes the gradient of a training step, whose batch may be split into parts to save memory."""

from collections.abc import Callable, Iterator

import torch

from cil.method import Losses

Parts = list[tuple[Iterator[Losses], float]]  # the steps on each part of a batch, and its share of the images


def gradient(parts: Parts, optimizer: torch.optim.Optimizer, precision: Callable[[], torch.autocast]) -> Losses:
    """Accumulate the gradient of the next step over the parts of a batch; returns its losses, or {} after the last."""
    whole: Losses = {}
    for steps, weight in parts:
        with precision():
            losses = next(steps, None)
        if not losses:
            return {}
        if not whole:
            optimizer.zero_grad()
        if len(parts) == 1:
            sum(losses.values()).backward()
            return losses
        (weight * sum(losses.values())).backward()
        for name, loss in losses.items():
            whole[name] = whole.get(name, 0.0) + weight * loss.detach()
    return whole
