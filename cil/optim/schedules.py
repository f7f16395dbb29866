"""Learning-rate schedules: functions that return the factor by which a phase's learning rate is multiplied.

`done` is the number of epochs done, with a fraction within an epoch. `epochs` is the length of the phase and `rate` its
learning rate, for schedules that define learning rates instead of factors. Schedules have no state, so nothing is saved.
"""

import math
from collections.abc import Sequence
from typing import Literal

from cil.common.ranges import Count, NonNegative, Share, Whole

Every = Literal["epoch", "step"]


def constant(done: float, epochs: int, rate: float) -> float:
    return 1.0


def cosine(done: float, epochs: int, rate: float, *, every: Every) -> float:
    """Decrease from 1 to 0 over the phase, updated at every epoch (`every: epoch`) or at every step (`every: step`)."""
    at = math.floor(done) if every == "epoch" else done
    return 0.5 * (1 + math.cos(math.pi * at / epochs))


def quarter_cosine(done: float, epochs: int, rate: float, *, every: Every) -> float:
    """Decrease from 1 to cos(0.495 π) ≈ 1/64, reached in the last epoch (`epoch`) or at the end (`step`) (CODA-Prompt)."""
    at = math.floor(done) / max(epochs - 1, 1) if every == "epoch" else done / epochs
    return math.cos(0.495 * math.pi * at)


def milestones(done: float, epochs: int, rate: float, *, at: Sequence[NonNegative], factor: NonNegative) -> float:
    """Multiply the learning rate by `factor` at each epoch in `at`."""
    return factor ** sum(done >= epoch for epoch in at)


def cosine_above(done: float, epochs: int, rate: float, *, every: Every, least: Share) -> float:
    """Decrease from 1 to `least` over the phase as half a cosine (AttriCLIP: `least` is 0.001)."""
    return least + (1 - least) * cosine(done, epochs, rate, every=every)


def warm_cosine(
    done: float, epochs: int, rate: float, *, warm: Whole, first: NonNegative, last: NonNegative, over: Count | None,
) -> float:  # fmt: skip
    """Linear warmup and half a cosine: `warm` epochs from learning rate `first` to that of the phase, then down to `last` at
    epoch `over`, or at the phase's end. Each epoch has the previous epoch's value, as in timm's scheduler (DyTox, LPA)."""
    at = max(math.floor(done) - 1, 0)
    if at < warm:
        return (first + at * (rate - first) / warm) / rate
    return (last + 0.5 * (rate - last) * (1 + math.cos(math.pi * at / (over or epochs)))) / rate
