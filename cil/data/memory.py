"""Exemplar memories: rows of the training split that are kept for rehearsal in later tasks."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from cil.common.transfer import sent
from cil.data.images import LabelledImages, join
from cil.data.scenario import Task


class Kept(nn.Module):
    """A module whose buffers grow with the tasks. A checkpoint is loaded even if its buffers have other lengths."""

    growing: tuple[str, ...]  # names of the buffers that grow
    on_cpu: tuple[str, ...] = ()  # names of the buffers that stay on the CPU, where they are used

    def _apply(self, *how, **more) -> "Kept":
        here = {name: self._buffers[name] for name in self.on_cpu}
        super()._apply(*how, **more)
        self._buffers.update(here)
        return self

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest) -> None:
        for name in self.growing:
            if prefix + name in state:
                setattr(self, name, torch.empty_like(state[prefix + name], device=getattr(self, name).device))
        super()._load_from_state_dict(state, prefix, *rest)


class Memory(Kept):
    """Keeps at most `total` images, equally many of each class, or `per_class` images of each class if that is given.

    Of each class it keeps the first images in the order of the dataset (iTAML, ARI, AttriCLIP's CoOp) or in an order that the
    method computes (herding). Only rows and labels are stored, so a checkpoint contains no images.
    """

    growing = on_cpu = ("rows", "labels")
    rows: Tensor  # (n,) int64: rows of the training split
    labels: Tensor  # (n,) int64

    def __init__(self, total: int, per_class: int | None = None) -> None:
        super().__init__()
        self.total, self.per_class = total, per_class
        self.register_buffer("rows", torch.empty(0, dtype=torch.long))
        self.register_buffer("labels", torch.empty(0, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, task: Task) -> LabelledImages:
        """Return the kept images of the classes in `task.remembered`, with the training transform of the task."""
        chosen = (self.labels >= task.remembered.start) & (self.labels < task.remembered.stop)
        return replace(task.train, rows=self.rows[chosen], labels=self.labels[chosen])

    def joined(self, task: Task) -> LabelledImages:
        """Return the training images of the task followed by the kept images."""
        return join([task.train, self.of(task)])

    def each(self, task: Task) -> int:
        """Return the number of images per class that are kept after the task."""
        return self.total // len(task.remembered) if self.per_class is None else self.per_class

    def after(self, task: Task, new: LabelledImages | None = None) -> LabelledImages:
        """Return the images to keep after the task: the first ones of each class, equally many of each.

        `new`: the task's images in the order that the method prefers; by default the order of the dataset.
        """
        both, each = join([self.of(task), task.train if new is None else new]), self.each(task)
        first = [(both.labels == label).nonzero()[:each, 0] for label in both.labels.unique()]
        return both.take(torch.cat([both.rows[:0], *first]))

    def keep(self, images: LabelledImages) -> None:
        """Replace the contents of the memory."""
        self.rows, self.labels = images.rows, images.labels


class Reservoir(Kept):
    """Reservoir sampling (Vitter; DER++): keeps at most `total` of all images shown, each with equal probability.

    An image that is shown again counts again, so it may be kept several times. Each entry has the logits that its image had
    when it was shown, over the classes known at that time.
    """

    growing = ("rows", "labels", "logits", "known")
    on_cpu = ("rows", "labels", "known", "shown")
    rows: Tensor  # (n,) int64: rows of the training split
    labels: Tensor  # (n,) int64
    known: Tensor  # (n,) int64: number of valid logits of each entry
    logits: Tensor  # (n, classes) float32
    shown: Tensor  # () int64: number of images shown so far

    def __init__(self, total: int) -> None:
        super().__init__()
        self.total = total
        self.register_buffer("shown", torch.zeros((), dtype=torch.long))
        for name in ("rows", "labels", "known"):
            self.register_buffer(name, torch.empty(0, dtype=torch.long))
        self.register_buffer("logits", torch.empty(0, 0))

    def __len__(self) -> int:
        return len(self.rows)

    def forget(self, kept: range) -> None:
        """Remove images of classes outside `kept`. If any are removed, restart the count of images shown at those that stay."""
        stay = (self.labels >= kept.start) & (self.labels < kept.stop)
        if not stay.all():
            for name in self.growing:
                setattr(self, name, getattr(self, name)[sent(stay, getattr(self, name).device)])
            self.shown.fill_(len(self))

    def show(self, rows: Tensor, labels: Tensor, logits: Tensor, random: torch.Generator | None = None) -> None:
        """Offer a batch to the reservoir. An image takes the next free place, or a random one with probability total / shown.

        `rows` and `labels` are (batch,) on the CPU. `logits` is (batch, classes) and may be on a GPU.
        """
        turns = int(self.shown) + torch.arange(len(rows))
        drawn = (torch.rand(len(rows), generator=random, dtype=torch.double) * (turns + 1)).long()
        places = torch.where(turns < self.total, turns, drawn)
        last = {place: number for number, place in enumerate(places.tolist()) if place < self.total}  # the later one stays
        self.shown += len(rows)
        self._grow(min(int(self.shown), self.total), logits.shape[1])
        where, which = torch.tensor([list(last), list(last.values())], dtype=torch.long)
        self.rows[where], self.labels[where], self.known[where] = rows[which], labels[which], logits.shape[1]
        where, which = sent(where, self.logits.device), sent(which, self.logits.device)
        self.logits[where, : logits.shape[1]] = logits[which].to(self.logits)

    def draw(self, count: int, among: range, random: torch.Generator | None = None) -> Tensor:
        """Draw up to `count` distinct entries of the classes `among`. Returns their positions on the CPU."""
        allowed = ((self.labels >= among.start) & (self.labels < among.stop)).nonzero()[:, 0]
        return allowed[torch.randperm(len(allowed), generator=random)[:count]]

    def _grow(self, count: int, classes: int) -> None:
        more, wider = count - len(self), max(0, classes - self.logits.shape[1])
        for name in ("rows", "labels", "known"):
            setattr(self, name, torch.cat([getattr(self, name), getattr(self, name).new_zeros(more)]))
        self.logits = torch.nn.functional.pad(self.logits, (0, wider, 0, more))
