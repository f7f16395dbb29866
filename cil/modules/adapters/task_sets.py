"""The common part of TUNA and MOS: a set of adapters per task, and a head that is aligned on pseudo-features of all classes."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.data.frozen_features import FrozenResults, Known
from cil.data.images import LabelledImages
from cil.data.scenario import Task
from cil.method import Phase
from cil.modules.adapters.parallel import Adapters, side_by_side
from cil.modules.heads.cosine import exact
from cil.modules.statistics.gaussians import Gaussians
from cil.modules.statistics.pseudo_features import PseudoFeatures
from cil.optim.schedules import cosine

FEATURES = 250  # images times subspaces that pass the backbone at a time

Start = Literal["new", "previous"]  # initial values of a set: drawn anew, or those of the task before


class TaskSets(nn.Module):
    """Trains a set of adapters and the head on each task. From the second task on, aligns the head on sampled features.

    The method has a `head` that grows, and says which sets predict (`spaces`) and how features become logits (`logits`).
    """

    head: nn.Module
    logits: Callable[..., Tensor]

    def __init__(
        self, backbone: nn.Module, *, bottleneck: int, scale: float, dropout: float, start: Start, align_epochs: int,
        align_lr: float, align_fall: int | None, samples: int, diagonal: bool = False,
    ) -> None:  # fmt: skip
        """`align_…`: training of the alignment. `align_fall`: epochs in which its rate falls to 0 as a cosine, before it rises
        again in as many; null: all. `samples`: pseudo-features per class and epoch, and the size of a batch of them.
        `diagonal`: draw each dimension of them by itself."""
        super().__init__()
        self.backbone, self.start, self.samples = backbone, start, samples
        self.align_epochs, self.align_lr, self.align_fall = align_epochs, align_lr, align_fall
        self.new = partial(Adapters, backbone.depth, backbone.width, bottleneck=bottleneck, scale=scale, dropout=dropout)
        self.new()  # raises an error for a wrong size before any training
        self.sets = nn.ModuleList()
        self.gaussians = Gaussians(backbone.width, shrinkage=False, diagonal=diagonal)
        self.results: dict[int, FrozenResults] = {}  # cached features, by the number of the subspace
        self.drawn = torch.empty(0)  # (classes · samples, width): the pseudo-features of an epoch

    def begin_task(self, task: Task) -> None:
        fresh = self.new()
        if self.sets and self.start == "previous":
            fresh.load_state_dict(self.sets[-1].state_dict())
        self.sets.append(fresh)
        self.head.grow(len(task.seen))
        self.gaussians.grow(len(task.seen))

    # --- training -----------------------------------------------------------------------------------------------------

    def aligning(self, task: Task) -> list[Phase]:
        """Return the phase of alignment, if there is one in this task."""
        if not (task.old and self.align_epochs):
            return []
        drawn = PseudoFeatures(torch.tensor(task.seen).repeat_interleave(self.samples), lambda places: self.drawn[places])
        head = {"params": [*self.head.parameters()], "lr": self.align_lr}
        return [Phase("align", task, drawn, [head], self.align_epochs, self.samples, self.falling)]  # type: ignore[arg-type]

    def falling(self, done: float, epochs: int, rate: float) -> float:
        return cosine(done, self.align_fall or epochs, rate, every="epoch")

    @torch.no_grad()
    def end_phase(self, phase: Phase) -> None:
        """After training, stores a Gaussian for each class of the task, of features with the task's own set."""
        if phase.name == "align":
            self.drawn = self.drawn.new_empty(0)
            return
        for label, features in self.of_classes(phase.task, len(self.sets) - 1):
            with exact(features):
                self.gaussians.remember(label, features)

    def of_classes(self, task: Task, number: int) -> Iterator[tuple[int, Tensor]]:
        """Yields each class of the task with its features, (images, width), on plain images with the set of a `number`."""
        images, device = task.train_plain, self.gaussians.means.device
        own = side_by_side([self.sets[number]])
        features = torch.cat([self.backbone(batch.images, adapters=own).float() for batch in images.batches(FEATURES, device)])
        labels = images.labels.to(device)
        return ((label, features[labels == label]) for label in task.classes)

    def begin_epoch(self, phase: Phase, epoch: int) -> None:
        if phase.name == "align":
            drawn = self.gaussians.sample(torch.tensor(phase.task.seen), self.samples)
            self.drawn = (drawn + self.shift(phase.task)).flatten(0, 1)

    def shift(self, task: Task) -> Tensor | float:
        """Return what is added to the samples of each class, (classes, 1, width)."""
        return 0.0

    def losses_from(self, known: Known, phase: Phase) -> dict[str, Tensor]:
        with exact(known.frozen):
            return {"ce": F.cross_entropy(self.logits(known.frozen), known.labels)}

    # --- tests --------------------------------------------------------------------------------------------------------

    def spaces(self) -> list[Adapters]:
        """Return the sets that predict; each gives a subspace of features."""
        return list(self.sets)

    def features(self, images: Tensor) -> Tensor:
        return self.everywhere(images).flatten(1)

    def everywhere(self, images: Tensor) -> Tensor:
        """Returns the features in all subspaces, (batch, subspaces, width). All sets of adapters run in one pass."""
        tokens, spaces = self.backbone.tokens(images), self.spaces()
        passed = self.backbone(tokens.repeat(len(spaces), 1, 1), adapters=side_by_side(spaces)).float()
        return passed.unflatten(0, (len(spaces), -1)).transpose(0, 1)

    def known(self, images: LabelledImages) -> Tensor:
        """Returns the same features from the cache where possible. The method removes from `results` what has changed."""
        for number in range(len(self.spaces())):
            if number not in self.results:
                self.results[number] = FrozenResults(partial(self.feature, number), self.gaussians.means.device)
        return torch.stack([self.results[number].of(images) for number in range(len(self.spaces()))], 1)

    def feature(self, number: int, images: Tensor) -> Tensor:
        """Returns the features in one subspace, (batch, width)."""
        return self.backbone(images, adapters=side_by_side([self.spaces()[number]])).float()

    def predict(self, images: Tensor) -> Tensor:
        return self.predict_from(self.everywhere(images), lambda: images)

    predict_from: Callable[..., Tensor]
