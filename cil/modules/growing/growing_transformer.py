"""A transformer learned from scratch, task after task, with a memory and a teacher (Douillard et al., CVPR 2022).

DyTox and Raw, the baseline of LPA, share this training. They differ in their tokens, and DyTox has a head that separates new
classes from old ones.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from cil.capabilities import ReadsWithTokens, require
from cil.common.errors import UserError
from cil.common.ranges import Count, Fraction, Range, Rate, Whole
from cil.common.switches import switches
from cil.common.transfer import sent
from cil.data.memory import Memory
from cil.data.sampling import repeated, shuffled, stored
from cil.data.transforms.views import View
from cil.method import Batch, LabelledImages, Phase, Scenario, Task
from cil.modules.rehearsal.distillation import FrozenCopy
from cil.modules.rehearsal.exemplars import by_herding, herded
from cil.modules.rehearsal.loss import binary, distilled, mixed, soft
from cil.optim.schedules import constant

Herding = Literal["plain", "cropped", "augmented"]
Distil = Literal["all", "memory"]
MixUp = Annotated[float, Range(0, 100, open="least", example=0.8)] | None


@switches
class LaterTasks:
    """What differs in every task but the first:

    - `later_epochs`, `later_lr`: epochs and learning rate; null: as in the first task.
    - `tune_epochs`, `tune_lr`: of the finetuning on the balanced memory after each task.
    - `tune_order`: Finetuning sees the memory `stored` (as it lies, each image twice), `repeated` as in training, or
      `shuffled`.
    - `tune_taught`: The distillation loss counts in finetuning too.
    """

    later_epochs: Count | None
    later_lr: Rate | None
    tune_epochs: Whole
    tune_lr: Rate
    tune_order: Literal["stored", "repeated", "shuffled"]
    tune_taught: bool


class Teacher(FrozenCopy):
    """The network as it was before the current task."""

    def answer(self, images: Tensor) -> Tensor:
        return self.reader.classify(self.reader.read(self.backbone, images))


def head(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))


class TaskReader(nn.Module):
    """Heads that share the backbone's token, or that have one token per task, the first of which is the backbone's."""

    def __init__(self, width: int, *, token_a_task: bool, std: float) -> None:
        super().__init__()
        self.width, self.token_a_task, self.std = width, token_a_task, std
        self.tokens, self.heads = nn.ParameterList(), nn.ModuleList()

    def grow(self, classes: int) -> None:
        if self.token_a_task and len(self.heads):
            self.tokens.append(nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, self.width), std=self.std)))
        self.heads.append(head(self.width, classes))

    def read(self, backbone: nn.Module, images: Tensor) -> Tensor:
        """Return the outputs of the tokens, (batch, tokens, width)."""
        return backbone(images, torch.cat([backbone.token, *self.tokens], 1))

    def classify(self, read: Tensor) -> Tensor:
        """(batch, tokens, width) → (batch, classes seen)."""
        own = read.expand(-1, len(self.heads), -1).unbind(1)
        return torch.cat([head(embedding) for head, embedding in zip(self.heads, own, strict=True)], 1)


class GrowingTransformer(nn.Module):
    """The base of DyTox and Raw."""

    token_a_task: bool

    def __init__(
        self, backbone: nn.Module, *, memory: Whole, herding: Herding, distil: Distil, mixup: MixUp, smoothing: Fraction,
        repeats: Count, later: LaterTasks,
    ) -> None:  # fmt: skip
        """`memory` is the number of images kept in all. `herding` chooses them by the features of `plain` images, of
        `cropped` ones or of fully `augmented` ones.

        `distil`: the distillation loss counts for `all` images, or only for those from the `memory` (LPA's code). `mixup` is
        the a of Beta(a, a), which draws how a batch is mixed with itself in reverse order. `repeats`: an epoch shows each
        image this many times, and so many fewer images.
        """
        super().__init__()
        require(backbone, ReadsWithTokens, type(self).__name__.lower())
        self.backbone, self.reader = backbone, TaskReader(backbone.width, token_a_task=self.token_a_task, std=backbone.std)
        self.memory, self.herding, self.distil = Memory(memory), herding, distil
        self.mixup = None if mixup is None else torch.distributions.Beta(mixup, mixup)
        self.smoothing, self.repeats = smoothing, partial(repeated, times=repeats) if repeats > 1 else shuffled
        self.later = later
        self.tune_order = {"stored": stored, "repeated": self.repeats, "shuffled": shuffled}[later.tune_order]
        self.teacher: Teacher | None = None  # of all tasks but the first

    # --- training -----------------------------------------------------------------------------------------------------

    def suits(self, scenario: Scenario) -> None:
        crop = scenario.views[0].crop
        if self.herding == "cropped" and crop != "padded":
            raise UserError(f"method.herding=cropped is of augment: crop=padded, not {crop}; type method.herding=plain")
        if any(task.rivals.start or task.remembered.start for task in scenario):
            raise UserError("this method learns and remembers all classes; type scenario.heads=joint scenario.exemplars=all")

    def begin_task(self, task: Task) -> None:
        if task.index:
            self.teacher = Teacher(backbone=self.backbone, reader=self.reader)
        self.reader.grow(len(task.classes))

    def phases(self, task: Task) -> Iterator[Phase]:
        """Yield training on all images, then finetuning of the upper part on the memory."""
        later = bool(task.index)
        rate = {"lr": self.later.later_lr} if later and self.later.later_lr is not None else {}
        yield Phase("train", task, self.memory.joined(task), [{"params": self.learning(), **rate}],
                    self.later.later_epochs if later else None, order=self.repeats)  # fmt: skip
        kept = self.memory.of(task)
        if later and self.later.tune_epochs and len(kept):
            yield Phase("tune", task, kept, [{"params": self.tuned(), "lr": self.later.tune_lr}], self.later.tune_epochs,
                        schedule=constant, order=self.tune_order)  # fmt: skip

    def learning(self) -> list[nn.Parameter]:
        """Everything but the heads of old tasks and, where each task has a token, the tokens of old tasks."""
        heads, old = self.reader.heads, [self.backbone.token, *self.reader.tokens][:-1] if self.token_a_task else []
        fixed = {id(p) for p in [*heads[:-1].parameters(), *old]}
        return [p for part in (self.backbone, self.reader) for p in part.parameters() if id(p) not in fixed]

    def tuned(self) -> list[nn.Parameter]:
        """Tokens and heads of all tasks and, where each task has a token, the block that reads with them."""
        last = self.backbone.last.parameters() if self.token_a_task else ()
        return [*last, self.backbone.token, *self.reader.parameters()]

    def mix(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mixed images and their (batch, classes) soft targets."""
        targets = soft(batch.labels, sum(head[1].out_features for head in self.reader.heads), self.smoothing)
        if self.mixup is None:
            return batch.images, targets
        share = float(self.mixup.sample())
        return mixed(batch.images, share), mixed(targets, share)

    def losses(self, logits: Tensor, targets: Tensor, images: Tensor, batch: Batch, phase) -> dict[str, Tensor]:
        """Binary cross-entropy of each class and, from the second task on, distillation from the teacher."""
        loss, old = binary(logits, targets), phase.task.classes.start
        if not old or (phase.name == "tune" and not self.later.tune_taught):
            return {"bce": loss}
        taught = slice(None)
        if self.distil == "memory":
            rows = (batch.cpu_labels < old).nonzero()[:, 0]
            if not len(rows):
                return {"bce": loss}
            taught = sent(rows, images.device)
        assert self.teacher is not None  # there are old classes
        share = old / logits.shape[1]
        return {"bce": (1 - share) * loss, "distil": share * distilled(logits[taught], self.teacher(images[taught]))}

    # --- memory and answers -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def end_phase(self, phase) -> None:
        """Update the memory between training and finetuning: add new classes by herding, shorten old ones."""
        if phase.name == "train":
            self.memory.keep(self.memory.after(phase.task, self.chosen(phase.task)))

    def chosen(self, task: Task) -> LabelledImages:
        """The images of the task that will be kept: class by class, the best first."""
        seen = replace(task.train, view=self.herding_view(task.train.view, task.train_plain.view))
        read = lambda images: self.reader.read(self.backbone, images)  # noqa: E731
        return task.train.take(by_herding(seen, read, self.memory.each(task), self.backbone.token.device, herded))

    def herding_view(self, train: View, test: View) -> View:
        """The transform whose features decide. Photographs are resized to the crop first, so that little is cut off."""
        plain = replace(test, resize=test.image.size) if test.crop == "centre" else test
        return {"plain": plain, "cropped": replace(train, flip=0.0, randaugment=False), "augmented": train}[self.herding]

    def predict(self, images: Tensor) -> Tensor:
        return self.reader.classify(self.reader.read(self.backbone, images))
