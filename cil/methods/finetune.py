"""Sequential fine-tuning: the lower bound."""

from typing import Literal

import torch.nn.functional as F
from torch import nn

from cil.data.images import Batch
from cil.data.scenario import Task
from cil.method import Losses, Method, Phase
from cil.modules.heads.linear_host import LinearHost


class Finetune(LinearHost, Method):
    """Go on training on each task's images alone; no memory, no regulariser."""

    divisible = True

    def __init__(self, backbone: nn.Module, *, columns: Literal["seen", "new"], learn: Literal["all", "head"]) -> None:
        """`columns`: the loss sees all `seen` classes, so old ones get only negative evidence (the FT row of the prompt
        papers), or only the `new` ones (FT++ of CODA-Prompt, "finetune" of PyCIL: forgets far less).
        `learn`: `all` weights, or the `head` alone (L2P's "FT-frozen")."""
        super().__init__(backbone)
        self.columns, self.learn = columns, learn

    def phases(self, task: Task) -> list[Phase]:
        learning = self.everything() if self.learn == "all" else list(self.head.parameters())
        return [Phase("train", task, task.train, learning)]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        first = (phase.task.classes if self.columns == "new" else phase.task.rivals).start
        return {"ce": F.cross_entropy(self.predict(batch.images)[:, first:], batch.labels - first)}
