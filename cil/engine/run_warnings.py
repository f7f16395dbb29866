"""Detects signs that a run went wrong. They are printed when the run ends and stored in its summary as `warnings`."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from cil.metrics import AccuracyMatrix

FALL = 0.5  # warn if accuracy falls below this fraction of what is left when every old class is forgotten

FEW_STEPS = 10  # warn if a phase has fewer training steps


class Doubts:
    """Collects warnings during a run, with the tasks to which they apply."""

    def __init__(self) -> None:
        self.found: dict[str, list[int]] = {}

    def add(self, what: str, task: int) -> None:
        tasks = self.found.setdefault(what, [])
        if task not in tasks:
            tasks.append(task)

    def told(self) -> list[str]:
        """The warnings as text."""
        return [f"{what} (task {', '.join(str(task + 1) for task in tasks)})" for what, tasks in self.found.items()]


class Still:
    """True if parameters did not change. Compares their sums and sums of squares, so that no parameter is copied."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.before = self._sums()  # a resumed phase restores the value from its start

    @torch.no_grad()
    def _sums(self) -> Tensor:
        sums = [torch.stack([p.sum(dtype=torch.double), p.double().square().sum()]) for p in self.parameters if p.numel()]
        return torch.stack(sums) if sums else torch.zeros(0)

    def __bool__(self) -> bool:
        before, now = self.before.cpu(), self._sums().cpu()
        return bool(len(before)) and before.shape == now.shape and torch.allclose(before, now, rtol=1e-9, atol=1e-12)


def few_steps(phase: str, taken: int) -> str:
    steps = f"{taken} step{'s' if taken > 1 else ''}"
    return f"phase {phase} took only {steps}, too few to learn much; type a larger train.epochs or a smaller train.batch_size"


def of_accuracies(class_il: AccuracyMatrix, task_il: AccuracyMatrix, classes: Sequence[int]) -> Iterator[str]:
    """Warn about accuracy at chance level and about a collapse; `classes` is the number of classes of each task."""
    measured = [task for task in range(class_il.learned) if math.isfinite(class_il.percent[task, 0])]
    if not measured:
        return
    last = measured[-1]
    seen, images = sum(classes[: last + 1]), class_il.totals[: last + 1].sum()
    if seen > 1 and class_il.after(last) <= guessing(seen, images):
        yield chance("over all classes", class_il.after(last), 100 / seen, images)
    own = task_il.percent[last, last]
    if classes[last] > 1 and own <= guessing(classes[last], task_il.totals[last]):
        yield chance("on the last task, with the task told,", own, 100 / classes[last], task_il.totals[last])
    for before, after in pairwise(measured):
        if class_il.after(after) < FALL * (before + 1) / (after + 1) * class_il.after(before):
            yield (f"the accuracy over all classes fell from {class_il.after(before):.1f} to {class_il.after(after):.1f} % "
                   f"with task {after + 1}")  # fmt: skip


def chance(of: str, percent: float, guessed: float, images: float) -> str:
    """Say that an accuracy is at chance level or, far above its mean, that there are too few images to tell."""
    if percent > 1.5 * guessed:
        return f"{percent:.1f} % {of} are of {images:.0f} test images, too few to tell it from guessing ({guessed:.1f} %)"
    return f"the accuracy {of} is {percent:.1f} %, where guessing gives {guessed:.1f} %"


def guessing(classes: int, images: float) -> float:
    """Accuracy in percent that random guessing may reach: its mean plus two standard deviations."""
    share = 1 / classes
    return 100 * (share + 2 * math.sqrt(share * (1 - share) / max(images, 1)))
