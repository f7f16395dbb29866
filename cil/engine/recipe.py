"""Defines how a phase is trained (`Recipe`), on which hardware (`Machine`), and one training step (`Step`)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from cil.method import Losses, Phase, Task

Parts = list[tuple[Iterator[Losses], float]]  # the steps on each part of a batch, and its share of the images


@dataclass(frozen=True)
class Recipe:
    """The training settings of a phase, used where the phase does not set its own."""

    optimizer: Callable  # parameters → optimizer
    schedule: Callable  # (epochs done, epochs, learning rate) → factor of the learning rate
    epochs: int
    batch_size: int
    clip: float | None  # the largest gradient norm
    first: "Recipe | None" = None  # the recipe of the first task, if it differs
    accumulate: int = 1  # parts into which a batch is split to accumulate gradients
    batches: int | None = None  # with debug=true: each phase takes at most this many, and one epoch

    def of(self, task: Task) -> "Recipe":
        return self.first if self.first and task.index == 0 else self

    def extent(self, phase: Phase) -> tuple[int, int]:
        """Return the number of epochs of a phase, and the number of images of a batch."""
        epochs, size = phase.epochs or self.epochs, phase.batch_size or self.batch_size
        return (1, min(size, self.batch_size)) if self.batches else (epochs, size)

    def steps(self, images: int, size: int) -> int:
        """Return the number of steps of an epoch over so many images."""
        return min(-(-images // size), self.batches or images)


@dataclass(frozen=True)
class Machine:
    """Device, precision and checkpoint settings. Except for precision and TF32, they change only the last digits of results."""

    device: torch.device
    precision: str
    eval_batch_size: int
    checkpoint_seconds: float  # the shortest time between two checkpoints inside a phase, at ends of epochs
    keep_checkpoints: str  # newest | all
    tf32: bool = False  # use TF32 in float32 matrix products on a GPU
    compile: bool = False  # compile the backbone's forward passes
    predictions: bool = False  # keep the scores of every test image


@dataclass
class Step:
    """One training step. `Trainer.steps` yields it; the consumer runs it and stores its losses in `losses`."""

    phase: Phase
    rows: torch.Tensor  # (batch,) positions in the phase's data
    optimizer: torch.optim.Optimizer
    rate: float  # factor of the learning rate
    where: tuple[int, int, int, int]  # task, phase, epoch, step
    last: bool = False  # the last step of its phase
    losses: Mapping[str, torch.Tensor] = field(init=False, repr=False)
    stop: bool = False  # whether to stop after this step, as all processes agreed


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
