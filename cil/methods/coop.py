"""CoOp: learns the context words around a class name (Zhou et al., IJCV 2022), here with an exemplar memory."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import HasText, require
from cil.common.ranges import Count, Whole
from cil.data.memory import Memory
from cil.method import Known, Losses, Method, Phase, Scenario, Task
from cil.modules.heads.cosine import scores
from cil.modules.heads.frozen_images import FrozenImages
from cil.modules.text import written
from cil.modules.together import Together
from cil.optim.schedules import constant


class CoOp(Together, FrozenImages, Method):
    """Describes each class by the text "context name." with one learned context for all classes seen."""

    divisible = True
    texts: Tensor  # (classes seen, width), normalized; used for prediction

    def __init__(
        self, backbone: nn.Module, *, length: Count, phrase: str | None, fresh: bool, memory: Whole, tune_epochs: Whole,
        tune_batch: Count, underscores: bool,
    ) -> None:  # fmt: skip
        """`length`: number of context words. `phrase`: words that initialize the context; null: random initialization.

        `fresh`: start each task from a new context, so that only the `memory` (total number of images) is carried over.

        From the second task on, the context is then tuned on the memory alone at a constant learning rate, for `tune_epochs`
        times the number of tasks so far, with batches of `tune_batch`. `underscores`: in class names, instead of spaces.
        """
        super().__init__()
        require(backbone, HasText, "coop")
        self.backbone, self.length, self.fresh, self.underscores = backbone, length, fresh, underscores
        self.tune_epochs, self.tune_batch, self.phrase = tune_epochs, tune_batch, phrase
        self.context = nn.Parameter(backbone.context(1, length, phrase)[0])
        self.memory = Memory(memory)
        self.names: list[str] = []
        self.register_buffer("texts", torch.empty(0, backbone.width))

    def suits(self, scenario: Scenario) -> None:
        self.backbone.room_for(written(scenario.class_names, self.underscores), self.length)

    def begin_task(self, task: Task) -> None:
        self.names += written(task.names, self.underscores)
        self.texts = self.texts.new_zeros(len(task.seen), self.texts.shape[1])
        if self.fresh and task.index:
            self.context.data.copy_(self.backbone.context(1, self.length, self.phrase)[0])

    def phases(self, task: Task) -> list[Phase]:
        train = Phase("train", task, self.memory.joined(task), [self.context])
        kept, epochs = self.memory.after(task), self.tune_epochs * (task.index + 1)
        if not task.old or not len(kept) or not epochs:
            return [train]
        return [train, Phase("tune", task, kept, [self.context], epochs, self.tune_batch, constant)]

    def losses_from(self, known: Known, phase: Phase) -> Losses:
        among = phase.task.rivals
        texts = self.encoded(self.names[among.start : among.stop])
        logits = scores(self.backbone.logit_scale, F.normalize(known.frozen, dim=1), texts)
        return {"ce": F.cross_entropy(logits, known.labels - among.start)}

    def encoded(self, names: list[str]) -> Tensor:
        """Returns the text features of the classes, (names, width), normalized."""
        return F.normalize(self.backbone.encode_contexts(self.context[None], names)[0].float(), dim=1)

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        self.memory.keep(self.memory.after(task))
        self.texts = self.encoded(self.names)

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        return scores(self.backbone.logit_scale, F.normalize(frozen, dim=1), self.texts)
