"""MG-CLIP: LoRA on CLIP, stopped while the gap between images and texts stays, and a visual head (Huang et al., ICCV 2025)."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import HasText, require
from cil.common.errors import UserError
from cil.common.ranges import Count, Positive, Rate, Share, Whole
from cil.method import Batch, Known, Losses, Method, Phase, Scenario, Task
from cil.modules.heads.cosine import exact, scores
from cil.modules.heads.linear import GrowingCosine
from cil.modules.statistics.features import IMAGES, PseudoFeatures, class_means, computed
from cil.modules.text import ClassTexts
from cil.modules.together import replaced
from cil.optim.schedules import cosine_above

FALLING = partial(cosine_above, every="step", least=0.01)


class MGCLIP(Method):
    """Trains low-rank changes of both encoders on each task in turn, for few epochs: as many as keep the mean logit of wrong
    classes near that of the pre-trained network, found on the first task. A cosine head on image features is added in tests.
    """

    divisible = True
    texts: Tensor  # (classes seen, width), normalized

    def __init__(
        self, backbone: nn.Module, *, class_texts: ClassTexts, rank: Count, scale: Positive, epochs: Count | None,
        change: Positive, trial: Literal["again", "kept"], visual_epochs: Whole, visual_lr: Rate, visual_batch: Count,
        visual_share: Share, twice: bool,
    ) -> None:  # fmt: skip
        """`rank`, `scale`: of the changes. `epochs`: of a task; null: found on the first task, of at most train.epochs, where
        the mean logit of wrong classes changes by the share `change`. `trial`: the first task is then trained `again`, or what
        the search trained is `kept`.

        `visual_…`: training of the head on the features of the task, and its share of the probabilities. `twice`: the softmax
        of the logits with texts is taken twice.
        """
        super().__init__()
        require(backbone, HasText, "mg_clip")
        if not any(isinstance(part, nn.MultiheadAttention) for part in backbone.image_tower.modules()):
            raise UserError("mg_clip changes the attention of CLIP's own image encoder; type backbone=clip_vit_b16")
        self.backbone, self.class_texts = backbone, class_texts
        self.epochs, self.change, self.trial, self.twice = epochs, change, trial, twice
        self.visual_epochs, self.visual_lr, self.visual_batch = visual_epochs, visual_lr, visual_batch
        self.visual_share, self.visual = visual_share, GrowingCosine(backbone.width)
        self.lora = AttentionLoRA(backbone, rank, scale)
        self.names: list[str] = []
        self.register_buffer("texts", torch.empty(0, backbone.width))
        self.register_buffer("tried", torch.zeros(2, dtype=torch.long))  # epochs of the search; whether it found the change
        self.features_of: tuple[int, Tensor] = -1, self.texts  # a task, and its normalized features

    def suits(self, scenario: Scenario) -> None:
        self.class_texts.check(self.backbone, scenario)

    def begin_task(self, task: Task) -> None:
        self.names += task.names
        self.texts = torch.cat([self.texts, self.texts.new_zeros(len(task.classes), self.texts.shape[1])])
        self.visual.grow(len(task.seen))

    # --- training -----------------------------------------------------------------------------------------------------

    def phases(self, task: Task) -> Iterator[Phase]:
        learned, search = [*self.lora.parameters()], not task.old and self.epochs is None
        if search:
            yield Phase("search" if self.trial == "again" else "train", task, task.train, learned)
        if not search or self.trial == "again":
            yield Phase("train", task, task.train, learned, self.found())
        if self.visual_epochs:
            data = PseudoFeatures(task.train_plain.labels, lambda places: self.features_of[1][places])
            head = [{"params": [self.visual.weight], "lr": self.visual_lr}]
            yield Phase("visual", task, data, head, self.visual_epochs, self.visual_batch, FALLING)  # type: ignore[arg-type]

    def found(self) -> int:
        """Returns the epochs of a task: those given, or one less than those of the search if that found the change."""
        return self.epochs or max(1, int(self.tried[0] - self.tried[1]))

    def searches(self, phase: Phase) -> bool:
        return self.epochs is None and not phase.task.old and phase.epochs is None

    def begin_epoch(self, phase: Phase, epoch: int) -> None:
        if self.searches(phase):
            self.tried[0] = epoch + 1
        if phase.name == "visual":
            self.seen(phase.task)

    def enough(self, phase: Phase, epoch: int) -> bool:
        return self.searches(phase) and self.moved(phase.task)

    @torch.no_grad()
    def moved(self, task: Task) -> bool:
        """Returns whether the mean logit of wrong classes has changed too much, and keeps that in `tried`."""
        before, now = (self.wrong(task, changed) for changed in (False, True))
        self.tried[1] = abs(now - before) > self.change * abs(before)
        return bool(self.tried[1])

    def wrong(self, task: Task, changed: bool) -> float:
        """Returns the mean logit of wrong classes on the task, by the changed or by the pre-trained network."""
        total = 0.0
        for batch in task.train_plain.batches(IMAGES, self.texts.device):
            logits = self.logits(batch.images, task.seen, changed).double()
            total += float(logits.sum() - logits.gather(1, batch.labels[:, None]).sum())
        return total / len(task.train_plain) / max(1, len(task.seen) - 1)

    def logits(self, images: Tensor, classes: range, changed: bool = True) -> Tensor:
        """Returns the logits of images, (batch, classes)."""

        def both() -> tuple[Tensor, Tensor]:
            texts = self.class_texts.encoded(self.backbone, self.names[classes.start : classes.stop])
            return F.normalize(self.backbone(images).float(), dim=1), texts

        return scores(self.backbone.logit_scale, *(self.lora.call(self.backbone, both) if changed else both()))

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        logits = self.logits(batch.images, phase.task.classes)
        return {"ce": F.cross_entropy(logits, batch.labels - phase.task.classes.start)}

    def losses_from(self, known: Known, phase: Phase) -> Losses:
        """Returns the loss of the visual head, whose cosines have no scale."""
        return {"ce": self.visual.own_loss(known.frozen, known.labels, phase.task.classes)}

    @torch.no_grad()
    def end_phase(self, phase: Phase) -> None:
        """Ends the search, or starts the visual head at the mean features of the classes."""
        task = phase.task
        if self.searches(phase) and not self.tried[1]:
            self.moved(task)
        if phase.name == "search":
            self.lora.reset()
        elif phase.name == "train":
            labels = task.train_plain.labels.to(self.texts.device)
            self.visual.weight[task.classes.start :] = class_means(self.seen(task), labels, task.classes)

    @torch.no_grad()
    def seen(self, task: Task) -> Tensor:
        """Returns the normalized features of the task's training images, (images, width). They are computed once."""
        if self.features_of[0] != task.index:
            self.features_of = task.index, computed(self.features, task.train_plain, self.texts.device)[0]
        return self.features_of[1]

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        self.texts = self.lora.call(self.backbone, self.class_texts.encoded, self.backbone, self.names)

    # --- tests --------------------------------------------------------------------------------------------------------

    def features(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) → (batch, width), normalized."""
        return F.normalize(self.lora.call(self.backbone, self.backbone, images).float(), dim=1)

    def predict(self, images: Tensor) -> Tensor:
        features = self.features(images)
        by_texts = scores(self.backbone.logit_scale, features, self.texts).softmax(1)
        by_images = self.visual(features).softmax(1)
        return (1 - self.visual_share) * (by_texts.softmax(1) if self.twice else by_texts) + self.visual_share * by_images

    def facts(self) -> dict:
        return {"epochs": self.found()}


class AttentionLoRA(nn.Module):
    """Low-rank factors for each layer of torch's MultiheadAttention. `up` starts at zero, so that at first nothing changes."""

    def __init__(self, model: nn.Module, rank: int, scale: float) -> None:
        super().__init__()
        layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.MultiheadAttention)}
        self.names, self.scale = [f"{name}.in_proj_weight" for name in layers], scale
        self.down = nn.ParameterList(torch.empty(2, rank, part.embed_dim) for part in layers.values())
        self.up = nn.ParameterList(torch.empty(2, part.embed_dim, rank) for part in layers.values())
        self.reset()

    def reset(self) -> None:
        """Draw the factors anew, `down` by Xavier's rule."""
        for down, up in zip(self.down, self.up):
            bound = math.sqrt(6 / sum(down.shape[1:]))
            down.data.copy_(torch.empty(down.shape).uniform_(-bound, bound))
            up.data.zero_()

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the changed weights by their names in the model: queries, keys and values, (3 · width, width) each."""
        with exact(self.up[0]):
            changes = [self.scale * (up @ down).flatten(0, 1) for up, down in zip(self.up, self.down)]
            return {
                name: model.get_parameter(name) + F.pad(own, (0, 0, own.shape[1], 0)) for name, own in zip(self.names, changes)
            }

    def call(self, model: nn.Module, call: Callable, *given: Any) -> Any:
        """Return `call(*given)`, in which the model has the changed weights."""
        return replaced(model, self.weights(model), call, *given)
