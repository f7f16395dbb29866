"""The common part of TUNA and MOS: a set of adapters per task, and a head that is aligned on features of all classes."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from cil.method import Known, Phase, Task
from cil.modules.adapters.parallel import AdapterSize, side_by_side
from cil.modules.adapters.subspaces import Subspaces
from cil.modules.heads.aligned import Aligned, Alignment
from cil.modules.heads.cosine import exact
from cil.modules.statistics.features import computed
from cil.optim.schedules import cosine

Start = Literal["new", "previous"]  # initial values of a set: drawn anew, or those of the task before


class TaskSets(Aligned, Subspaces):
    """Trains a set of adapters and the head on each task.

    The method has a `head` that grows, and says which sets predict (`spaces`) and how features become logits (`logits`).
    """

    head: nn.Module
    logits: Callable[..., Tensor]

    def __init__(
        self, backbone: nn.Module, size: AdapterSize, start: Start, alignment: Alignment, *, align_fall: int | None = None,
        diagonal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(backbone, size)
        self.start, self.align_fall = start, align_fall
        self.prepare(backbone.width, alignment, diagonal=diagonal)

    def begin_task(self, task: Task) -> None:
        fresh = self.new()
        if self.sets and self.start == "previous":
            fresh.load_state_dict(self.sets[-1].state_dict())
        self.sets.append(fresh)
        self.head.grow(len(task.seen))
        self.gaussians.grow(len(task.seen))

    def alignments(self, task: Task) -> list[Phase]:
        return self.aligning(task, self.head, self.alignment.samples, self.falling)

    def falling(self, done: float, epochs: int, rate: float) -> float:
        return cosine(done, self.align_fall or epochs, rate, every="epoch")

    def measured(self, task: Task, number: int = -1) -> tuple[Tensor, Tensor]:
        """Returns the features of the task's images with one set, (images, width), and their labels."""
        own = side_by_side([self.sets[number]])
        return computed(lambda images: self.backbone(images, adapters=own), task.train_plain, self.gaussians.means.device)

    def losses_from(self, known: Known, phase: Phase) -> dict[str, Tensor]:
        with exact(known.frozen):
            return {"ce": F.cross_entropy(self.logits(known.frozen), known.labels)}
