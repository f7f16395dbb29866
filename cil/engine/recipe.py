"""How a phase is trained, where, and the step that comes next."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cil.data.scenario import Task
from cil.method import Phase


@dataclass(frozen=True)
class Recipe:
    """How a phase is trained unless it says otherwise."""

    optimizer: Callable  # parameters → optimizer
    schedule: Callable  # (epochs done, epochs, learning rate) → factor of it
    epochs: int
    batch_size: int
    clip: float | None  # norm of the gradient
    first: "Recipe | None" = None  # where the first task is trained otherwise
    accumulate: int = 1  # parts in which a batch is learned

    def of(self, task: Task) -> "Recipe":
        return self.first if self.first and task.index == 0 else self


@dataclass(frozen=True)
class Machine:
    """Where and how carefully; nothing here but the precision and TF32 moves a number by more than its last digits."""

    device: torch.device
    precision: str
    eval_batch_size: int
    checkpoint_seconds: float  # inside a phase, at the end of an epoch, not more often than this
    keep_checkpoints: str  # newest | all
    tf32: bool = False  # of float32 products on a GPU
    compile: bool = False  # passes through the backbone


@dataclass
class Step:
    """What is to be learned next; whoever asked for it learns and leaves the losses here."""

    phase: Phase
    rows: torch.Tensor  # of the phase's data
    optimizer: torch.optim.Optimizer
    rate: float  # factor of the learning rate
    where: tuple[int, int, int, int]  # task, phase, epoch, step
    last: bool = False  # of its phase
    losses: dict[str, torch.Tensor] | None = None
    stop: bool = False  # after it, as all processes of the run agreed
