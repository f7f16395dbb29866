"""Exemplars: rows of the training split that are kept for later tasks."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from cil.common.transfer import sent
from cil.data.images import LabelledImages, join
from cil.data.scenario import Task


class Kept(nn.Module):
    """Buffers that grow with the tasks, so that a checkpoint's are taken whatever their length."""

    growing: tuple[str, ...]
    on_cpu: tuple[str, ...] = ()  # those that stay there, since they are looked at there

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
    """At most `total` images, as many of each class, or with `per_class` that many of each however many there are.

    They are the first of the data set's order (iTAML, ARI, AttriCLIP's CoOp), or of one that the method finds (herding).
    What is kept are rows and labels, so that a checkpoint has no images.
    """

    growing = on_cpu = ("rows", "labels")

    def __init__(self, total: int, per_class: int | None = None) -> None:
        super().__init__()
        self.total, self.per_class = total, per_class
        self.register_buffer("rows", torch.empty(0, dtype=torch.long))
        self.register_buffer("labels", torch.empty(0, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, task: Task) -> LabelledImages:
        """What is kept of the classes that the task may remember, seen through its view."""
        chosen = (self.labels >= task.remembered.start) & (self.labels < task.remembered.stop)
        return replace(task.train, rows=self.rows[chosen], labels=self.labels[chosen])

    def joined(self, task: Task) -> LabelledImages:
        """The task's images and what is kept."""
        return join([task.train, self.of(task)])

    def each(self, task: Task) -> int:
        """How many of a class will be kept once the task has been met."""
        return self.total // len(task.remembered) if self.per_class is None else self.per_class

    def after(self, task: Task, new: LabelledImages | None = None) -> LabelledImages:
        """What will be kept once the task has been met: the same number of each class, the first of them. `new`: the task's
        images in an order of the method's."""
        both, each = join([self.of(task), task.train if new is None else new]), self.each(task)
        first = [(both.labels == label).nonzero()[:each, 0] for label in both.labels.unique()]
        return both.take(torch.cat([both.rows[:0], *first]))

    def keep(self, images: LabelledImages) -> None:
        self.rows, self.labels = images.rows, images.labels


class Reservoir(Kept):
    """At most `total` images, each of those that were ever shown with the same chance (Vitter; DER++).

    Every showing counts, so that one image may be there several times. With it lie the logits that it had then, of the
    classes that were known then.
    """

    growing = ("rows", "labels", "logits", "known")
    on_cpu = ("rows", "labels", "known", "shown")

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
        """Of the classes but these: their images go, and the count of what was shown starts with those that stay."""
        stay = (self.labels >= kept.start) & (self.labels < kept.stop)
        if not stay.all():
            for name in self.growing:
                setattr(self, name, getattr(self, name)[sent(stay, getattr(self, name).device)])
            self.shown.fill_(len(self))

    def show(self, rows: Tensor, labels: Tensor, logits: Tensor, random: torch.Generator | None = None) -> None:
        """Each takes the next free place or, in its turn, one drawn from as many as were shown, if there is such a place.

        `logits` may lie on a GPU; the others lie on the CPU.
        """
        turns = int(self.shown) + torch.arange(len(rows))
        drawn = (torch.rand(len(rows), generator=random, dtype=torch.double) * (turns + 1)).long()
        places = torch.where(turns < self.total, turns, drawn)
        last = {place: number for number, place in enumerate(places.tolist()) if place < self.total}  # the later one stays
        self.shown += len(rows)
        self._make_room(min(int(self.shown), self.total), logits.shape[1])
        where, which = torch.tensor([list(last), list(last.values())], dtype=torch.long)
        self.rows[where], self.labels[where], self.known[where] = rows[which], labels[which], logits.shape[1]
        where, which = sent(where, self.logits.device), sent(which, self.logits.device)
        self.logits[where, : logits.shape[1]] = logits[which].to(self.logits)

    def draw(self, count: int, among: range, random: torch.Generator | None = None) -> Tensor:
        """Places, on the CPU, of images of these classes, each at most once."""
        allowed = ((self.labels >= among.start) & (self.labels < among.stop)).nonzero()[:, 0]
        return allowed[torch.randperm(len(allowed), generator=random)[:count]]

    def _make_room(self, count: int, classes: int) -> None:
        more, wider = count - len(self), max(0, classes - self.logits.shape[1])
        for name in ("rows", "labels", "known"):
            setattr(self, name, torch.cat([getattr(self, name), getattr(self, name).new_zeros(more)]))
        self.logits = torch.nn.functional.pad(self.logits, (0, wider, 0, more))
