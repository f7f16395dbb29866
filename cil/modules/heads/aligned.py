"""Aligns a head on features that are sampled from a Gaussian of each class (SLCA, TUNA and MOS)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cil.common.ranges import Count, NonNegative, Whole
from cil.common.switches import switches
from cil.method import Phase, Task
from cil.modules.statistics.features import PseudoFeatures
from cil.modules.statistics.gaussians import Gaussians


@switches
class Alignment:
    """The last phase of a task, from the second on, trains the head on sampled features:

    - `align_epochs`, `align_lr`: its epochs and its learning rate.
    - `samples`: pseudo-features per class and epoch.
    """

    align_epochs: Whole
    align_lr: NonNegative
    samples: Count


class Aligned:
    """Base class of such methods. They call `prepare`, and define `measured` and `losses_from`."""

    measured: Callable[[Task], tuple[Tensor, Tensor]]  # the features of a task's images, (images, width), and their labels

    def prepare(self, width: int, alignment: Alignment, *, diagonal: bool = False) -> None:
        """`diagonal`: draw each dimension of the features by itself."""
        self.alignment, self.gaussians = alignment, Gaussians(width, shrinkage=False, diagonal=diagonal)
        self.drawn = torch.empty(0)  # (classes · samples, width): the pseudo-features of an epoch

    def aligning(self, task: Task, head: nn.Module, batch: int, schedule: Callable) -> list[Phase]:
        """Return the phase of alignment, if there is one in this task."""
        classes, asked = self.aligned(task), self.alignment
        if classes == task.classes or not asked.align_epochs:
            return []
        drawn = PseudoFeatures(torch.tensor(classes).repeat_interleave(asked.samples), lambda places: self.drawn[places])
        heads = [{"params": [*head.parameters()], "lr": asked.align_lr}]
        return [Phase("align", task, drawn, heads, asked.align_epochs, batch, schedule)]  # type: ignore[arg-type]

    def begin_epoch(self, phase: Phase, epoch: int) -> None:
        if phase.name == "align":
            drawn = self.gaussians.sample(torch.tensor(self.aligned(phase.task)), self.alignment.samples)
            self.drawn = (drawn + self.shift(phase.task)).flatten(0, 1)

    def aligned(self, task: Task) -> range:
        """Return the classes whose features are sampled."""
        return task.seen

    def shift(self, task: Task) -> Tensor | float:
        """Return what is added to the samples of each class, (classes, 1, width)."""
        return 0.0

    @torch.no_grad()
    def end_phase(self, phase: Phase) -> None:
        """After training, stores a Gaussian for each class of the task. It is not updated when the features change later."""
        if phase.name == "align":
            self.drawn = self.drawn.new_empty(0)
        else:
            self.gaussians.remember(*self.measured(phase.task), phase.task.classes)

    def facts(self) -> dict:
        return {"ridge": self.gaussians.ridge}


def drifted(mean: Tensor, learned: int, now: int) -> Tensor:
    """Return the mean at which SLCA samples a class of task `learned` in task `now`: mean · (0.9 + 0.1 · learned / now).

    Tasks count from 1.
    """
    return mean * (0.9 + 0.1 * learned / now)
