"""Continual-CLIP: zero-shot classification with frozen CLIP over the classes seen so far (Thengane et al. 2022)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import HasText, require
from cil.method import Method, Phase, Scenario, Task
from cil.modules.heads.cosine import scores
from cil.modules.heads.frozen_images import FrozenImages
from cil.modules.text import ClassTexts


class ContinualCLIP(FrozenImages, Method):
    """Computes logits = exp(logit_scale) · cos(image feature, text feature of the class). Nothing is trained.

    With one template, the text feature is the encoding of that text. With several, their normalized encodings are averaged
    and normalized again, as in CLIP's prompt ensembling.
    """

    divisible = True
    texts: Tensor  # (classes seen, width), normalized

    def __init__(self, backbone: nn.Module, *, class_texts: ClassTexts) -> None:
        super().__init__()
        require(backbone, HasText, "continual_clip")
        self.backbone, self.class_texts = backbone, class_texts
        self.register_buffer("texts", torch.empty(0, backbone.width))

    def suits(self, scenario: Scenario) -> None:
        self.class_texts.check(self.backbone, scenario)

    def begin_task(self, task: Task) -> None:
        self.texts = torch.cat([self.texts, self.texts.new_zeros(len(task.classes), self.texts.shape[1])])

    def phases(self, task: Task) -> list[Phase]:
        return []

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        self.texts[task.classes.start : task.classes.stop] = self.class_texts.encoded(self.backbone, task.names)

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        return scores(self.backbone.logit_scale, F.normalize(frozen, dim=1), self.texts)
