"""DyTox: a transformer with a learned token and a classifier head for each task (Douillard et al., CVPR 2022)."""

from torch import nn

from cil.common.ranges import Count, Fraction, Weight, Whole
from cil.method import Batch, Losses, Method, Phase, Task
from cil.modules.growing.growing_transformer import Distil, GrowingTransformer, Herding, LaterTasks, MixUp, head
from cil.modules.rehearsal.loss import diverging


class DyTox(GrowingTransformer, Method):
    """Each task token attends to the patches in a shared last block, and the task's head classifies the result. With `mixup`
    and `smoothing` this is DyTox+."""

    token_a_task = True

    def __init__(
        self, backbone: nn.Module, *, memory: Whole, herding: Herding, distil: Distil, divergence: Weight, mixup: MixUp,
        smoothing: Fraction, repeats: Count, later: LaterTasks,
    ) -> None:  # fmt: skip
        """`divergence`: weight of the loss of an auxiliary head, which classifies the new classes and treats all old classes as
        one. Each task creates a new one and uses it in training only. Other settings: see GrowingTransformer."""
        super().__init__(backbone, memory=memory, herding=herding, distil=distil, mixup=mixup, smoothing=smoothing,
                         repeats=repeats, later=later)  # fmt: skip
        self.divergence, self.apart = divergence, None

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        if task.index and self.divergence:
            self.apart = head(self.backbone.width, len(task.classes) + 1)

    def learning(self) -> list[nn.Parameter]:
        return super().learning() + (list(self.apart.parameters()) if self.apart else [])

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        images, targets = self.mix(batch)
        read = self.reader.read(self.backbone, images)
        losses = self.losses(self.reader.classify(read), targets, images, batch, phase)
        if self.apart and phase.name == "train":
            losses["apart"] = self.divergence * diverging(self.apart(read[:, -1]), targets, phase.task.classes.start)
        return losses
