"""Continual-CLIP: zero-shot classification with frozen CLIP over the classes seen so far (Thengane et al. 2022)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import HasText, require
from cil.data.scenario import Scenario, Task
from cil.method import Method, Phase
from cil.modules.heads.cosine import scores
from cil.modules.heads.frozen_images import FrozenImages
from cil.modules.text.names import written
from cil.modules.text.templates import encoded
from cil.modules.text.templates import templates as named


class ContinualCLIP(FrozenImages, Method):
    """Computes logits = exp(logit_scale) · cos(image feature, text feature of the class). Nothing is trained.

    With one template, the text feature is the encoding of that text. With several, their normalized encodings are averaged
    and normalized again, as in CLIP's prompt ensembling.
    """

    divisible = True
    texts: Tensor  # (classes seen, width), normalized

    def __init__(self, backbone: nn.Module, *, templates: str | Sequence[str], underscores: bool) -> None:
        """`templates`: texts in which {} stands for the class name, or the name of a predefined set. `underscores`: write class
        names with underscores instead of spaces."""
        super().__init__()
        require(backbone, HasText, "continual_clip")
        self.backbone, self.templates, self.underscores = backbone, named(templates), underscores
        self.register_buffer("texts", torch.empty(0, backbone.width))

    def suits(self, scenario: Scenario) -> None:
        self.backbone.room_for([max(self.templates, key=len).format(name) for name in scenario.class_names], 0)

    def begin_task(self, task: Task) -> None:
        self.texts = torch.cat([self.texts, self.texts.new_zeros(len(task.classes), self.texts.shape[1])])

    def phases(self, task: Task) -> list[Phase]:
        return []

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        names = written(task.names, self.underscores)
        self.texts[task.classes.start : task.classes.stop] = encoded(self.backbone, self.templates, names)

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        return scores(self.backbone.logit_scale, F.normalize(frozen, dim=1), self.texts)
