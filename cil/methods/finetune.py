"""Sequential fine-tuning: the lower bound."""

import torch.nn.functional as F
from torch import Tensor, nn

from cil.data import Batch
from cil.method import Losses, Method, Phase
from cil.mistakes import Mistake, nearest
from cil.modules.heads import GrowingLinear
from cil.scenario import Task


class Finetune(Method):
    """Go on training on each task's images alone; no memory, no regulariser."""

    def __init__(self, backbone: nn.Module, *, columns: str, learn: str) -> None:
        """`columns`: the loss sees all `seen` classes, so old ones get only negative evidence (the FT row of the prompt
        papers), or only the `new` ones (FT++ of CODA-Prompt, "finetune" of PyCIL: forgets far less).
        `learn`: `all` weights, or the `head` alone (L2P's "FT-frozen")."""
        super().__init__()
        for value, known, key in ((columns, ("seen", "new"), "columns"), (learn, ("all", "head"), "learn")):
            if value not in known:
                raise Mistake(f"method.{key}={value} is not known; {nearest(value, known)}")
        self.backbone, self.columns, self.learn = backbone, columns, learn
        self.head = GrowingLinear(backbone.width)

    def begin_task(self, task: Task) -> None:
        self.head.grow(len(task.seen))

    def phases(self, task: Task) -> list[Phase]:
        body = self.backbone.image_parameters() if self.learn == "all" else ()
        return [Phase("train", task, task.train, [*body, *self.head.parameters()])]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        first = (phase.task.classes if self.columns == "new" else phase.task.rivals).start
        logits = self.head(self.features(batch.images))
        return {"ce": F.cross_entropy(logits[:, first:], batch.labels - first)}

    def features(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def predict(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))
