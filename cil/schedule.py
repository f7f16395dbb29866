"""Learning-rate schedules: a factor of the optimizer's rate as a function of how far a phase has come.

`done` counts epochs and has a fraction inside one; `rate` is the phase's own, for a schedule that knows rates and not factors.
A schedule has no state, so there is nothing to save or restore.
"""

import math
from collections.abc import Sequence

from cil.mistakes import Mistake, nearest


def constant(done: float, epochs: int, rate: float) -> float:
    return 1.0


def cosine(done: float, epochs: int, rate: float, *, every: str) -> float:
    """From 1 to 0 over the phase; `every: epoch` holds the rate within an epoch, `every: step` does not."""
    if every not in ("epoch", "step"):
        raise Mistake(f"schedule.every={every} is not known; {nearest(every, ('epoch', 'step'))}")
    at = math.floor(done) if every == "epoch" else done
    return 0.5 * (1 + math.cos(math.pi * at / epochs))


def quarter_cosine(done: float, epochs: int, rate: float, *, every: str) -> float:
    """From 1 to cos(0.495 π), a 64th: in the last epoch with `every: epoch`, at the phase's end with `step` (CODA-Prompt)."""
    if every not in ("epoch", "step"):
        raise Mistake(f"schedule.every={every} is not known; {nearest(every, ('epoch', 'step'))}")
    at = math.floor(done) / max(epochs - 1, 1) if every == "epoch" else done / epochs
    return math.cos(0.495 * math.pi * at)


def milestones(done: float, epochs: int, rate: float, *, at: Sequence[int], factor: float) -> float:
    """Multiply by `factor` at each epoch of `at`."""
    return factor ** sum(done >= epoch for epoch in at)


def cosine_above(done: float, epochs: int, rate: float, *, every: str, least: float) -> float:
    """From 1 to `least` over the phase (AttriCLIP: to a thousandth)."""
    return least + (1 - least) * cosine(done, epochs, rate, every=every)


def warm_cosine(done: float, epochs: int, rate: float, *, warm: int, first: float, last: float, over: int | None) -> float:
    """`warm` epochs from the rate `first` up to the phase's, then half a cosine towards the rate `last` at epoch `over`, or
    at the phase's end. An epoch is trained at the value of the one before it, as timm steps its schedule (DyTox, LPA)."""
    for key, value, fits in (("optim.lr", rate, rate > 0), ("schedule.warm", warm, warm >= 0),
                             ("schedule.over", over, over is None or over > 0)):  # fmt: skip
        if not fits:
            raise Mistake(f"{key}={value} makes no schedule; type {key}={1e-3 if key == 'optim.lr' else 5}")
    at = max(math.floor(done) - 1, 0)
    if at < warm:
        return (first + at * (rate - first) / warm) / rate
    return (last + 0.5 * (rate - last) * (1 + math.cos(math.pi * at / (over or epochs)))) / rate
