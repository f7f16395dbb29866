"""Which classes arrive when. Labels are renumbered once, by arrival, so a task's classes are a range and masks are slices."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from cil.common.errors import UserError
from cil.common.ranges import Count
from cil.data.images import Images, LabelledImages
from cil.data.registry.listfile import digest
from cil.data.registry.orders import class_order
from cil.data.transforms.views import View


@dataclass(frozen=True)
class Task:
    """One step of a scenario."""

    index: int
    classes: range  # range(20, 30)
    names: tuple[str, ...]  # one per class, for text encoders
    train: LabelledImages  # view with chance
    train_plain: LabelledImages  # same images, test view: herding, Fisher, statistics
    test: LabelledImages
    last: bool  # nothing follows; for upper bounds, since a learner cannot know
    total: int  # classes of the whole scenario; for heads that have them all from the start, as released code does
    dataset: range  # classes of its data set: all, unless several are learned one after another
    rivals: range  # classes that its own are told apart from in training: those seen, of all data sets or of its own
    remembered: range  # classes of which old images may be kept

    @property
    def seen(self) -> range:
        return range(self.classes.stop)

    @property
    def old(self) -> range:
        return range(self.classes.start)


class Scenario:
    """A sequence of tasks: iterate, index or slice it."""

    def __init__(
        self, images: Images, views: tuple[View, View], *, name: str, tasks: Count, first: Count | None,
        order: str | Sequence[int],
    ) -> None:  # fmt: skip
        """`first`: classes of the first task when it is larger than the others; `order`: see `class_order`."""
        count = len(images.class_names)
        self.name, self.images, self.views = name, images, views
        self.sizes = split(count, tasks, first, name)
        # order[k] is the dataset's label of the class that arrives as number k
        self.order = class_order(order, count, getattr(images, "name", None))
        self._arrival = np.argsort(self.order)
        self.datasets = [range(count)]  # classes of each, by arrival

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Task]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int | slice) -> "Task | list[Task]":
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = sum(self.sizes[:index])
        classes = range(start, start + self.sizes[index])
        train, test = self.views
        pick = (
            self._pick(self.images.train, self.images.train_labels, classes, train),
            self._pick(self.images.train, self.images.train_labels, classes, test),
            self._pick(self.images.test, self.images.test_labels, classes, test),
        )
        return Task(index, classes, tuple(self.class_names[c] for c in classes), *pick, index + 1 == len(self),
                    sum(self.sizes), **self._ranges(classes))  # fmt: skip

    def _ranges(self, classes: range) -> dict[str, range]:
        seen = range(classes.stop)
        return {"dataset": self.datasets[0], "rivals": seen, "remembered": seen}

    @property
    def class_names(self) -> tuple[str, ...]:
        """All names, by arrival."""
        return tuple(self.images.class_names[label] for label in self.order)

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers should know."""
        names = Counter(self.class_names)
        twice = [name for name, count in names.items() if count > 1]
        if not twice:
            return []
        return [
            f"classes of one name: {', '.join(twice)}; methods that read names give them the same score, and the first one wins"
        ]

    def order_digest(self) -> str:
        return digest(self.order)

    def split_digest(self) -> str:
        """Over sizes and order: two runs with equal split and data digests learn the same images in the same tasks."""
        return digest((self.sizes, self.order))

    def _pick(self, pixels: torch.Tensor, labels: torch.Tensor, classes: range, view: View) -> LabelledImages:
        arrival = torch.from_numpy(self._arrival)[labels]
        rows = ((arrival >= classes.start) & (arrival < classes.stop)).nonzero()[:, 0]
        return LabelledImages(pixels, rows, arrival[rows], view)


class InTurn(Scenario):
    """Data sets learned one after another, each in `tasks` tasks: cross-dataset continual learning (AttriCLIP, section 4.3)."""

    def __init__(
        self, images: Images, views: tuple[View, View], *, name: str, tasks: Count, order: str | Sequence[int],
        heads: Literal["joint", "separate"], exemplars: Literal["all", "own"],
    ) -> None:  # fmt: skip
        """`order` is that of each data set. The paper's suffixes: -1 has `heads: separate` (the loss of a later data set leaves
        the classes of earlier ones out) and `exemplars: own` (of earlier ones none are kept), -2 has `joint` and `all`."""
        if (heads, exemplars) == ("separate", "all"):
            raise UserError("scenario.heads=separate leaves old exemplars without a loss; type scenario.exemplars=own too")
        self.name, self.images, self.views, self.heads, self.exemplars = name, images, views, heads, exemplars
        parts = images.parts or ((images.name, len(images.class_names)),)
        self.sizes = [size for part, count in parts for size in split(count, tasks, None, f"{name}: {part}")]
        ends = np.cumsum([count for _, count in parts]).tolist()
        self.datasets = [range(end - count, end) for end, (_, count) in zip(ends, parts)]
        orders = [class_order(order, count, part) for part, count in parts]
        self.order = [span.start + label for span, own in zip(self.datasets, orders) for label in own]
        self._arrival = np.argsort(self.order)

    def _ranges(self, classes: range) -> dict[str, range]:
        own = next(span for span in self.datasets if classes.start in span)
        met = {"joint": 0, "separate": own.start}[self.heads]
        kept = {"all": 0, "own": own.start}[self.exemplars]
        return {"dataset": own, "rivals": range(met, classes.stop), "remembered": range(kept, classes.stop)}


def split(count: int, tasks: int, first: int | None, name: str) -> list[int]:
    """Classes of each task: equal parts, or `first` and then equal parts."""
    if tasks < 1 or tasks > count:
        raise UserError(f"{name}: {count} classes cannot make {tasks} tasks; set scenario.tasks between 1 and {count}")
    if first is not None and tasks == 1 and first != count:
        raise UserError(f"{name}: one task holds all {count} classes; set scenario.first=null")
    rest, parts = (count, tasks) if first is None else (count - first, tasks - 1)
    if first is not None and not 1 <= first <= count - parts:
        raise UserError(f"{name}: first={first} leaves too few of {count} classes for {parts} more tasks; lower scenario.first")
    if parts and rest % parts:
        fitting = [n for n in range(1, rest + 1) if rest % n == 0]
        more = 0 if first is None else 1
        raise UserError(f"{name}: {rest} classes do not split into {parts} equal tasks; set scenario.first, or scenario.tasks "
                        f"to one of {', '.join(str(n + more) for n in fitting)}")  # fmt: skip
    return ([] if first is None else [first]) + [rest // parts] * parts
