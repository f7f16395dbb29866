"""Features in the subspaces of several sets of adapters (EASE, TUNA and MOS)."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.method import FrozenResults, Known, LabelledImages, Phase, Task
from cil.modules.adapters.parallel import Adapters, AdapterSize, side_by_side
from cil.modules.heads.aligned import Aligned, Alignment
from cil.modules.heads.cosine import exact
from cil.modules.statistics.features import computed
from cil.optim.schedules import cosine

Start = Literal["new", "previous"]  # initial values of a set: drawn anew, or those of the task before


class Subspaces(nn.Module):
    """Each set of adapters defines a subspace of features. The method predicts from all of them (`predict_from`)."""

    predict_from: Callable[..., Tensor]

    def __init__(self, backbone: nn.Module, size: AdapterSize) -> None:
        super().__init__()
        self.backbone, self.new = backbone, partial(size.made, backbone)
        self.new()  # raises an error for a wrong size before any training
        self.sets = nn.ModuleList()
        self.results: dict[int, FrozenResults] = {}  # cached features, by the number of the subspace

    def spaces(self) -> list[Adapters | None]:
        """Return the sets that predict. None, the backbone without adapters, may be the first."""
        return list(self.sets)

    def everywhere(self, images: Tensor) -> Tensor:
        """Returns the features in all subspaces, (batch, subspaces, width). All sets of adapters run in one pass."""
        tokens, sets = self.backbone.tokens(images), [own for own in self.spaces() if own is not None]
        found = self.backbone(tokens.repeat(len(sets), 1, 1), adapters=side_by_side(sets)).unflatten(0, (len(sets), -1))
        if self.spaces()[0] is None:
            found = torch.cat([self.backbone(tokens)[None], found])
        return found.float().transpose(0, 1)

    def known(self, images: LabelledImages) -> Tensor:
        """Returns the same features from the cache where possible. A method removes from `results` what has changed."""
        for number in range(len(self.spaces())):
            if number not in self.results:
                self.results[number] = FrozenResults(partial(self.feature, number), next(self.parameters()).device)
        return torch.stack([self.results[number].of(images) for number in range(len(self.spaces()))], 1)

    def feature(self, number: int, images: Tensor) -> Tensor:
        """Returns the features in one subspace, (batch, width)."""
        return self.backbone(images, adapters=self.spaces()[number]).float()

    def features(self, images: Tensor) -> Tensor:
        return self.everywhere(images).flatten(1)

    def predict(self, images: Tensor) -> Tensor:
        return self.predict_from(self.everywhere(images), lambda: images)


class TaskSets(Aligned, Subspaces):
    """Trains a set of adapters and the head on each task.

    The method has a `head` that grows, and says which sets predict (`spaces`) and how features become logits (`logits`).
    """

    head: nn.Module
    logits: Callable[..., Tensor]

    def __init__(
        self, backbone: nn.Module, size: AdapterSize, start: Start, alignment: Alignment, *, align_fall: int | None = None,
        diagonal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(backbone, size)
        self.start, self.align_fall = start, align_fall
        self.prepare(backbone.width, alignment, diagonal=diagonal)

    def begin_task(self, task: Task) -> None:
        fresh = self.new()
        if self.sets and self.start == "previous":
            fresh.load_state_dict(self.sets[-1].state_dict())
        self.sets.append(fresh)
        self.head.grow(len(task.seen))
        self.gaussians.grow(len(task.seen))

    def alignments(self, task: Task) -> list[Phase]:
        return self.aligning(task, self.head, self.alignment.samples, self.falling)

    def falling(self, done: float, epochs: int, rate: float) -> float:
        return cosine(done, self.align_fall or epochs, rate, every="epoch")

    def measured(self, task: Task, number: int = -1) -> tuple[Tensor, Tensor]:
        """Returns the features of the task's images with one set, (images, width), and their labels."""
        own = side_by_side([self.sets[number]])
        return computed(lambda images: self.backbone(images, adapters=own), task.train_plain, self.gaussians.means.device)

    def losses_from(self, known: Known, phase: Phase) -> dict[str, Tensor]:
        with exact(known.frozen):
            return {"ce": F.cross_entropy(self.logits(known.frozen), known.labels)}
