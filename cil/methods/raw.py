"""Raw: a transformer with one token for all tasks and a head per task, the baseline of LPA (Zheng et al., ICME 2023)."""

from collections.abc import Iterator

from torch import nn

from cil.capabilities import ReadsWithTokens, require
from cil.common.ranges import Count, Fraction, Whole
from cil.data.images import Batch
from cil.data.scenario import Task
from cil.method import Losses, Method, Phase
from cil.modules.growing.growing_transformer import Distil, GrowingTransformer, Herding, LaterTasks, MixUp


class Raw(GrowingTransformer, Method):
    """The released code of LPA (locality-preserved attention) calls this baseline "Raw"."""

    token_a_task = False

    def __init__(
        self, backbone: nn.Module, *, memory: Whole, herding: Herding, distil: Distil, mixup: MixUp, smoothing: Fraction,
        repeats: Count, later: LaterTasks,
    ) -> None:  # fmt: skip
        """Settings: see GrowingTransformer."""
        require(backbone, ReadsWithTokens, "raw")
        super().__init__(backbone, memory=memory, herding=herding, distil=distil, mixup=mixup, smoothing=smoothing,
                         repeats=repeats, later=later)  # fmt: skip

    def phases(self, task: Task) -> Iterator[Phase]:
        return (Phase(**stretch) for stretch in self.stretches(task))

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        images, targets = self.mix(batch)
        return self.losses(self.predict(images), targets, images, batch, phase)
