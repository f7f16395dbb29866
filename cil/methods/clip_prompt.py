"""Prompts in both encoders of CLIP: one image prompt for all tasks, one text context per task (PGP's CLIP, ICLR 2024)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import HasText, ProjectionSite, TakesImagePrompts, require
from cil.common.ranges import Count, NonNegative
from cil.method import Batch, Losses, Method, Phase, Scenario, Task
from cil.modules.heads.cosine import scores
from cil.modules.text import written
from cil.modules.together import Together


class CLIPPrompt(Together, Method):
    """Describes a class by the text "context name." with its task's context, and prepends the image prompt to the patches."""

    divisible = True
    texts: Tensor  # (classes seen, width), normalized

    def __init__(
        self, backbone: nn.Module, *, text_length: Count, phrase: str | None, image_length: Count,
        first: dict[str, NonNegative] | None, leaky_batch: Count | None,
    ) -> None:  # fmt: skip
        """`phrase`: words whose embeddings initialize a text context; null: random initialization.

        `first`: optimizer settings that differ in the first task. `leaky_batch`: batch size of the released evaluation. There
        an image competes only with classes up to the last task in its batch, which leaks the task id; this accuracy is
        reported separately."""
        super().__init__()
        require(backbone, HasText, "clip_prompt")
        require(backbone, TakesImagePrompts, "clip_prompt")
        self.backbone, self.text_length, self.phrase = backbone, text_length, phrase
        self.first, self.leaky_batch = first or {}, leaky_batch
        bound = 1 / math.sqrt(backbone.image_width)  # as torch initializes a linear layer
        self.image_prompt = nn.Parameter(torch.empty(image_length, backbone.image_width).uniform_(-bound, bound))
        self.contexts = nn.ParameterList()
        self.register_buffer("texts", torch.empty(0, backbone.width))

    def suits(self, scenario: Scenario) -> None:
        self.backbone.room_for(written(scenario.class_names, False), self.text_length)

    def begin_task(self, task: Task) -> None:
        self.contexts.append(nn.Parameter(self.backbone.context(1, self.text_length, self.phrase)[0]))
        self.texts = torch.cat([self.texts, self.texts.new_zeros(len(task.classes), self.texts.shape[1])])

    def phases(self, task: Task) -> list[Phase]:
        own = {} if task.old else self.first
        return [Phase("train", task, task.train, [{"params": [self.contexts[task.index], self.image_prompt], **own}])]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        texts = self.encoded(phase.task)
        logits = scores(self.backbone.logit_scale, self.features(batch.images), texts)
        return {"ce": F.cross_entropy(logits, batch.labels - phase.task.classes.start)}

    def encoded(self, task: Task) -> Tensor:
        """Returns the text features of the task's classes, (classes, width), normalized."""
        context = self.contexts[task.index][None]
        return F.normalize(self.backbone.encode_contexts(context, written(task.names, False))[0].float(), dim=1)

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        self.texts[task.classes.start : task.classes.stop] = self.encoded(task)

    def features(self, images: Tensor) -> Tensor:
        return F.normalize(self.backbone(images, prompts=self.image_prompt[None]).float(), dim=1)

    def predict(self, images: Tensor) -> Tensor:
        return scores(self.backbone.logit_scale, self.features(images), self.texts)

    # --- gradient projection ------------------------------------------------------------------------------------------

    def projection_sites(self) -> list[ProjectionSite]:
        return [ProjectionSite("image_prompt", "image", self.image_prompt, own=True)]

    def projection_inputs(self, images: Tensor, released: bool) -> dict[str, Tensor]:
        """Returns the class and patch tokens with positions, before the first norm, (batch, tokens, 1, width). `released` has
        no effect."""
        return {"image_prompt": self.backbone.tokens(images)[:, :, None]}
