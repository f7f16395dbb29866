"""Sequential fine-tuning, the lower bound."""

from typing import Literal

import torch.nn.functional as F
from torch import nn

from cil.method import Batch, Losses, Method, Phase, Task
from cil.modules.heads.linear_host import LinearHost
from cil.modules.together import Together


class Finetune(Together, LinearHost, Method):
    """Trains on each task in turn without any protection against forgetting."""

    divisible = True

    def __init__(self, backbone: nn.Module, *, columns: Literal["seen", "new"], learn: Literal["all", "head"]) -> None:
        """`columns`: the loss covers all `seen` classes, which pushes the scores of old classes down (FT in the prompt papers),
        or only the `new` ones, which forgets far less (FT++ in CODA-Prompt, "finetune" in PyCIL).
        `learn`: train `all` weights, or only the `head` (FT-frozen in L2P)."""
        super().__init__(backbone)
        self.columns, self.learn = columns, learn

    def only_alone(self) -> str | None:
        return "it trains the backbone (method.learn=head does not)" if self.learn == "all" else None

    def phases(self, task: Task) -> list[Phase]:
        learning = self.everything() if self.learn == "all" else list(self.head.parameters())
        return [Phase("train", task, task.train, learning)]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        first = (phase.task.classes if self.columns == "new" else phase.task.rivals).start
        return {"ce": F.cross_entropy(self.predict(batch.images)[:, first:], batch.labels - first)}
