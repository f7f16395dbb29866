"""CoOp: the words around a class name are learned (Zhou et al., IJCV 2022), here with an exemplar memory."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import HasText, require
from cil.data import Batch
from cil.memory import Memory
from cil.method import Losses, Method, Phase
from cil.scenario import Task
from cil.schedule import constant


class CoOp(Method):
    """One context for all classes seen, "context name."; logits = exp(logit_scale) · cos(image, text)."""

    def __init__(
        self, backbone: nn.Module, *, length: int, fresh: bool, memory: int, tune_epochs: int, tune_batch: int,
        underscores: bool,
    ) -> None:  # fmt: skip
        """`fresh`: a new random context in each task, so that nothing but the `memory` (images in all) is carried over.

        After a later task the context is tuned on the memory alone, `tune_epochs` for each task so far, at a constant rate.
        """
        super().__init__()
        require(backbone, HasText, "coop")
        self.backbone, self.length, self.fresh, self.underscores = backbone, length, fresh, underscores
        self.tune_epochs, self.tune_batch = tune_epochs, tune_batch
        self.context = nn.Parameter(0.02 * torch.randn(length, backbone.text_width))
        self.memory = Memory(memory)
        self.names: list[str] = []
        self.register_buffer("texts", torch.empty(0, backbone.width))  # (classes seen, width), normalised, for tests

    def begin_task(self, task: Task) -> None:
        self.names += [name.replace(" ", "_") if self.underscores else name for name in task.names]
        self.texts = self.texts.new_zeros(len(task.seen), self.texts.shape[1])
        if self.fresh and task.index:
            self.context.data.copy_(0.02 * torch.randn(self.context.shape))

    def phases(self, task: Task) -> list[Phase]:
        train = Phase("train", task, self.memory.joined(task.train), [self.context])
        if not task.old or not self.memory.total or not self.tune_epochs:
            return [train]
        kept, epochs = self.memory.after(task.train, len(task.seen)), self.tune_epochs * (task.index + 1)
        return [train, Phase("tune", task, kept, [self.context], epochs, self.tune_batch, constant)]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        logits = self.backbone.logit_scale * self.frozen_stage(batch.images).detach() @ self.encoded().T
        return {"ce": F.cross_entropy(logits, batch.labels)}

    def encoded(self) -> Tensor:
        """(classes seen, width), normalised."""
        return F.normalize(self.backbone.encode_contexts(self.context[None], self.names)[0].float(), dim=1)

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        self.memory.keep(self.memory.after(task.train, len(task.seen)))
        self.texts = self.encoded()

    # --- tests --------------------------------------------------------------------------------------------------------

    def predict(self, images: Tensor) -> Tensor:
        return self.predict_from(self.frozen_stage(images), lambda: images)

    def frozen_stage(self, images: Tensor) -> Tensor:
        return F.normalize(self.backbone(images).float(), dim=1)

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        return self.backbone.logit_scale * frozen @ self.texts.T
