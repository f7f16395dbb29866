"""Learning-rate schedules: a factor of the optimizer's rate as a function of how far a phase has come.

`done` counts epochs and has a fraction inside one; `rate` is the phase's own, for a schedule that knows rates and not factors.
A schedule has no state, so there is nothing to save or restore.
"""

import math
from collections.abc import Sequence
from typing import Literal

from cil.common.ranges import Count, NonNegative, Share, Whole

Every = Literal["epoch", "step"]


def constant(done: float, epochs: int, rate: float) -> float:
    return 1.0


def cosine(done: float, epochs: int, rate: float, *, every: Every) -> float:
    """From 1 to 0 over the phase; `every: epoch` holds the rate within an epoch, `every: step` does not."""
    at = math.floor(done) if every == "epoch" else done
    return 0.5 * (1 + math.cos(math.pi * at / epochs))


def quarter_cosine(done: float, epochs: int, rate: float, *, every: Every) -> float:
    """From 1 to cos(0.495 π), a 64th: in the last epoch with `every: epoch`, at the phase's end with `step` (CODA-Prompt)."""
    at = math.floor(done) / max(epochs - 1, 1) if every == "epoch" else done / epochs
    return math.cos(0.495 * math.pi * at)


def milestones(done: float, epochs: int, rate: float, *, at: Sequence[NonNegative], factor: NonNegative) -> float:
    """Multiply by `factor` at each epoch of `at`."""
    return factor ** sum(done >= epoch for epoch in at)


def cosine_above(done: float, epochs: int, rate: float, *, every: Every, least: Share) -> float:
    """From 1 to `least` over the phase (AttriCLIP: to a thousandth)."""
    return least + (1 - least) * cosine(done, epochs, rate, every=every)


def warm_cosine(
    done: float, epochs: int, rate: float, *, warm: Whole, first: NonNegative, last: NonNegative, over: Count | None,
) -> float:  # fmt: skip
    """`warm` epochs from the rate `first` up to the phase's, then half a cosine towards the rate `last` at epoch `over`, or
    at the phase's end. An epoch is trained at the value of the one before it, as timm steps its schedule (DyTox, LPA)."""
    at = max(math.floor(done) - 1, 0)
    if at < warm:
        return (first + at * (rate - first) / warm) / rate
    return (last + 0.5 * (rate - last) * (1 + math.cos(math.pi * at / (over or epochs)))) / rate
