"""iCaRL: exemplars, distillation, and classification by the nearest exemplar mean (Rebuffi et al., CVPR 2017)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.common.errors import UserError
from cil.common.ranges import Positive, Weight, Whole
from cil.data.memory import Kept
from cil.method import Batch, Losses, Method, Phase, Scenario, Task
from cil.modules.heads.linear_host import LinearHost
from cil.modules.rehearsal.distillation import sigmoids, softened
from cil.modules.rehearsal.exemplars import IMAGES, Exemplars, Selection


class ICaRL(Kept, LinearHost, Method):
    """Trains on the images of the task and of the memory. The network before the task teaches the outputs for old classes."""

    growing = ("means",)
    divisible = taught = True
    means: Tensor  # (classes seen, width), normalized

    def __init__(
        self, backbone: nn.Module, *, loss: Literal["sigmoids", "softmax"], strength: Weight, temperature: Positive,
        answer: Literal["means", "head"], mirror: bool, memory: Whole, per_class: Whole | None, selection: Selection,
    ) -> None:  # fmt: skip
        """`loss`: binary cross-entropy per class (`sigmoids`, the paper), or cross-entropy plus `strength` times a distillation
        loss at a `temperature` (`softmax`, PyCIL and PILOT).

        `answer`: predict the nearest of the `means` of exemplars, or by the `head`. `mirror`: each exemplar's mirror image
        counts in the means. `memory`: total number of images. `per_class`: a fixed number per class instead. `selection`:
        see cil/modules/rehearsal/exemplars.py.
        """
        super().__init__(backbone)
        self.loss, self.strength, self.temperature = loss, strength, temperature
        self.answer, self.mirror = answer, mirror
        self.memory = Exemplars(memory, per_class, selection)
        self.register_buffer("means", torch.empty(0, backbone.width))

    def suits(self, scenario: Scenario) -> None:
        if self.answer == "means" and not self.memory.total and self.memory.per_class is None:
            raise UserError(
                "method.memory=0 leaves no exemplars for method.answer=means; type method.answer=head, or method.memory=1000"
            )
        self.memory.check(scenario)

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        self.means = torch.cat([self.means, self.means.new_zeros(len(task.classes), self.means.shape[1])])

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("train", task, self.memory.joined(task), self.everything())]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        first, old = phase.task.rivals.start, phase.task.classes.start
        logits, labels = super().predict(batch.images)[:, first:], batch.labels - first
        taught = self.teacher(batch.images)[:, first:] if self.teacher and old > first else logits[:, :0].detach()
        if self.loss == "sigmoids":
            return {"bce": sigmoids(logits, taught, F.one_hot(labels, logits.shape[1]).to(logits.dtype))}
        losses = {"ce": F.cross_entropy(logits, labels)}
        if old > first:
            losses["distil"] = self.strength * softened(logits, taught, self.temperature)
        return losses

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        self.memory.choose(task, self.features)
        kept = self.memory.of(task)
        view = task.train_plain.view
        features = []
        for places in torch.arange(len(kept)).split(IMAGES):
            images = view(kept.pixels[kept.rows[places]], None, self.means.device)
            both = [images, images.flip(3)] if self.mirror else [images]
            features.append(sum(F.normalize(self.features(each).float(), dim=1) for each in both))
        for label in kept.labels.unique().tolist():
            own = torch.cat(features)[(kept.labels == label).to(self.means.device)]
            self.means[label] = F.normalize(F.normalize(own, dim=1).mean(0), dim=0)

    def predict(self, images: Tensor) -> Tensor:
        if self.answer == "head":
            return super().predict(images)
        return F.normalize(self.features(images).float(), dim=1) @ self.means.T
