"""Scenarios: sequences of tasks, each with its own classes.

Labels are renumbered by arrival, so that the classes of a task are a range and a mask over classes is a slice.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, overload

import numpy as np
import torch

from cil.common.errors import UserError
from cil.common.ranges import Count, Fraction
from cil.data.images import Images, LabelledImages, Pictures, alone
from cil.data.registry.listfile import digest
from cil.data.registry.orders import class_order
from cil.data.registry.sizes import split, whole
from cil.data.transforms.views import View


@dataclass(frozen=True)
class Task:
    """One task of a scenario: its classes and its images."""

    index: int
    classes: range  # labels of its classes, for example range(20, 30)
    names: tuple[str, ...]  # one per class, for text encoders
    train: LabelledImages  # with the random training transform
    train_plain: LabelledImages  # the same images with the test transform, for herding, Fisher information and statistics
    test: LabelledImages
    last: bool  # whether it is the last task; for upper bounds only, since a learner cannot know
    total: int  # number of classes of the scenario; for heads that have all outputs from the start, as in released code
    dataset: range  # classes of its dataset: all, unless several datasets are learned in turn
    rivals: range  # classes in the training loss: all seen classes, or only those of its dataset
    remembered: range  # classes of which exemplars may be kept

    @property
    def seen(self) -> range:
        """Classes of this task and of all earlier ones."""
        return range(self.classes.stop)

    @property
    def old(self) -> range:
        """Classes of all earlier tasks."""
        return range(self.classes.start)


class Scenario:
    """A sequence of tasks, which can be iterated, indexed and sliced."""

    def __init__(
        self, images: Images, views: tuple[View, View], *, name: str, tasks: Count, first: Count | None,
        order: str | Sequence[int | str], sizes: str | Sequence[Count] | None = None,
        validation: Fraction = 0.0,
    ) -> None:  # fmt: skip
        """`first`: number of classes of the first task, if it differs from the others. `sizes`: number of classes of every
        task, in place of `tasks` and `first`, in a list or as b50_inc10. `order`: see `class_order`.

        `validation`: this share of the training images of each class is held out and takes the place of the test images.
        """
        count = len(images.class_names)
        self.name, self.images, self.views = name, images, views
        self.sizes = split(count, tasks, first, name) if sizes is None else whole(sizes, count, name)
        # order[k] is the dataset's label of the class that arrives as number k
        self.order = class_order(order, count, getattr(images, "name", None), images.class_names)
        self.validation, self._held = validation, held_out(images.train_labels, images.class_names, validation)
        self.datasets = [range(count)]  # classes of each dataset, numbered by arrival

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Task]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = sum(self.sizes[:index])
        classes = range(start, start + self.sizes[index])
        (train, test), images = self.views, self.images
        of_train = (images.train, images.train_labels)
        of_test = of_train if self.validation else (images.test, images.test_labels)
        pick = (
            self._pick(*of_train, classes, train, ~self._held),
            self._pick(*of_train, classes, test, ~self._held),
            self._pick(*of_test, classes, test, self._held if self.validation else None),
        )
        return Task(index, classes, tuple(self.class_names[c] for c in classes), *pick, index + 1 == len(self),
                    sum(self.sizes), *self._ranges(classes))  # fmt: skip

    def shorten(self, tasks: Sequence[int] = (0, 1), images: int = 4) -> None:
        """Leave out all but two tasks, and all but a few images of each of their classes. For `debug=true`."""
        kept = [self[index] for index in tasks if index < len(self)]
        classes = [self.order[label] for task in kept for label in task.classes]
        self.sizes = [len(task.classes) for task in kept]
        self.order = [*classes, *(label for label in self.order if label not in classes)]
        train, test = self.images.train_labels, self.images.test_labels
        sides = [first_of(train, classes, images, ~self._held), first_of(train, classes, images, self._held)]
        rows = torch.cat(sides).sort().values
        tested = first_of(test, classes, images)
        self._held = self._held[rows]
        self.images = replace(self.images, train=alone(self.images.train, rows), train_labels=train[rows],
                              test=alone(self.images.test, tested), test_labels=test[tested])  # fmt: skip

    def _ranges(self, classes: range) -> tuple[range, range, range]:
        """Return `dataset`, `rivals` and `remembered` of the task with these classes."""
        return self.datasets[0], range(classes.stop), range(classes.stop)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of all classes, in order of arrival."""
        return tuple(self.images.class_names[label] for label in self.order)

    @property
    def notes(self) -> list[str]:
        """Warnings about the scenario that matter for its results."""
        names = Counter(self.class_names)
        twice = [name for name, count in names.items() if count > 1]
        equal = (
            f"duplicate class names: {', '.join(twice)}; methods that use names give them equal scores and predict the first"
        )
        share = f"scenario.validation={self.validation:g}: accuracies are of held-out training images; no test image is used"
        return [*([equal] if twice else []), *([share] if self.validation else [])]

    def order_digest(self) -> str:
        """Hash of the class order."""
        return digest(self.order)

    def split_digest(self) -> str:
        """Hash of task sizes and class order. With equal split and data digests, two runs have the same images in each task."""
        return digest((self.sizes, self.order, self.validation) if self.validation else (self.sizes, self.order))

    def _pick(
        self, pixels: Pictures, labels: torch.Tensor, classes: range, view: View, only: torch.Tensor | None
    ) -> LabelledImages:
        """The images of these classes among the rows `only`, or among all rows."""
        arrival = torch.from_numpy(np.argsort(self.order))[labels]
        chosen = (arrival >= classes.start) & (arrival < classes.stop)
        rows = (chosen if only is None else chosen & only).nonzero()[:, 0]
        return LabelledImages(pixels, rows, arrival[rows], view)


class InTurn(Scenario):
    """Datasets learned in turn, each in `tasks` tasks: cross-dataset continual learning (AttriCLIP, section 4.3)."""

    def __init__(
        self, images: Images, views: tuple[View, View], *, name: str, tasks: Count, order: str | Sequence[int],
        heads: Literal["joint", "separate"], exemplars: Literal["all", "own"], sizes: None = None, validation: Fraction = 0.0,
    ) -> None:  # fmt: skip
        """`order` applies to each dataset. `heads: separate` leaves classes of earlier datasets out of the loss, and
        `exemplars: own` keeps no exemplars of them (the paper's suffix -1). Suffix -2 has `heads: joint`, `exemplars: all`."""
        if (heads, exemplars) == ("separate", "all"):
            raise UserError("scenario.heads=separate leaves old exemplars without a loss; type scenario.exemplars=own too")
        if sizes is not None:
            raise UserError("scenario.sizes is of one dataset; type scenario.sizes=null scenario.tasks=10 for datasets in turn")
        self.name, self.images, self.views, self.heads, self.exemplars = name, images, views, heads, exemplars
        self.validation, self._held = validation, held_out(images.train_labels, images.class_names, validation)
        parts = images.parts or ((images.name, len(images.class_names)),)
        self.sizes = [size for part, count in parts for size in split(count, tasks, None, f"{name}: {part}")]
        ends = np.cumsum([count for _, count in parts]).tolist()
        self.datasets = [range(end - count, end) for end, (_, count) in zip(ends, parts)]
        orders = [class_order(order, count, part) for part, count in parts]
        self.order = [span.start + label for span, own in zip(self.datasets, orders) for label in own]

    def shorten(self, tasks: Sequence[int] = (0, 1), images: int = 4) -> None:
        if len(self.datasets) > 1:  # the first task of each dataset
            starts = [next(task.index for task in self if task.classes.start == span.start) for span in self.datasets]
            super().shorten(starts, images)
            ends = np.cumsum(self.sizes).tolist()
            self.datasets = [range(end - size, end) for end, size in zip(ends, self.sizes)]
        else:
            super().shorten(tasks, images)

    def _ranges(self, classes: range) -> tuple[range, range, range]:
        own = next(span for span in self.datasets if classes.start in span)
        rivals = {"joint": 0, "separate": own.start}[self.heads]
        kept = {"all": 0, "own": own.start}[self.exemplars]
        return own, range(rivals, classes.stop), range(kept, classes.stop)


def first_of(labels: torch.Tensor, classes: Sequence[int], count: int, among: torch.Tensor | None = None) -> torch.Tensor:
    """Return the rows, sorted, of the first `count` images of each class, among the rows of a mask if one is given."""
    masks = ((labels == label) & (True if among is None else among) for label in classes)
    return torch.cat([mask.nonzero()[:count, 0] for mask in masks]).sort().values


def held_out(labels: torch.Tensor, names: Sequence[str], share: float) -> torch.Tensor:
    """Return a mask, (images,), of the training images that validation holds out: a fixed random draw from each class."""
    mask, random = torch.zeros(len(labels), dtype=torch.bool), np.random.RandomState(0)
    for label, name in enumerate(names if share else ()):
        rows = (labels == label).nonzero()[:, 0]
        count = round(share * len(rows))
        if not 0 < count < len(rows):
            raise UserError(f"scenario.validation={share:g} of the {len(rows)} images of class {name} leaves none to train or "
                            "none to evaluate; type another share, as in scenario.validation=0.2")  # fmt: skip
        mask[rows[torch.from_numpy(random.permutation(len(rows))[:count])]] = True
    return mask
