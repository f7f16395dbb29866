"""Reads the record of a run, `events.jsonl`, as points of curves for the loggers."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cil.metrics import AccuracyMatrix
from cil.runs.run_folder import RunDir, read_matrices

SO_FAR = ("acc", "incremental_average", "forgetting", "backward_transfer")


class Point(NamedTuple):
    """One line of the record: its position on each axis, the axis of its curves, and the value of each curve."""

    line: int
    clock: dict[str, int]
    axis: str
    values: dict[str, float]


class Record:
    """Reads the lines of a run's record that were not read before."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, RunDir(folder).events
        self.lines = self.epochs = self.images = 0

    def fresh(self, rate: float | None) -> Iterator[Point]:
        """Yield the points added since the last call; an incomplete last line is left for the next call.

        `rate`: measured images per second of the last line, used if that line is an epoch.
        """
        whole = self.file.read_bytes().split(b"\n")[:-1] if self.file.exists() else []
        while self.lines < len(whole):
            event, last = json.loads(whole[self.lines]), self.lines + 1 == len(whole)
            self.lines += 1
            if "losses" in event:
                yield self._epoch(event, rate if last else None)
            elif "class_il" in event:
                yield self._row(event["task"])

    def _epoch(self, event: dict, rate: float | None) -> Point:
        self.epochs, self.images = self.epochs + 1, self.images + event["images"]
        values = {f"train/{event['phase']}/{name}": value for name, value in event["losses"].items()}
        rate = rate or event["images"] / max(event["seconds"], 1e-3)
        return self._point(event["task"], "epochs", {**values, f"train/{event['phase']}/images_per_second": rate})

    def _row(self, task: int) -> Point:
        values: dict[str, float] = {}
        for kind, whole in read_matrices(self.folder).items():
            matrix = whole.until(task)
            so_far, row = matrix.summary(), enumerate(matrix.percent[task])
            values |= {f"{kind}/{name}": value for name in SO_FAR if (value := so_far[name]) is not None}
            values |= {f"{kind}/task_{old + 1:02d}": float(percent) for old, percent in row}
        return self._point(task, "task", values)

    def _point(self, task: int, axis: str, values: dict[str, float]) -> Point:
        clock = {"epochs": self.epochs, "images": self.images, "task": task + 1}
        return Point(self.lines - 1, clock, axis, values)


class Reported:
    """Tells a function the accuracies after each task, once and in order, also for tasks learned by an earlier process.

    The function gets the matrix as it was after the task. An exception that it raises ends the run, which can be resumed.
    """

    def __init__(self, matrix: AccuracyMatrix, tell: Callable[[AccuracyMatrix], object]) -> None:
        self.matrix, self.tell, self.told = matrix, tell, 0

    def __call__(self) -> None:
        for task in range(self.told, self.matrix.learned):
            self.told = task + 1
            if math.isfinite(self.matrix.correct[task, 0]):  # some methods are not evaluated after every task
                self.tell(self.matrix.until(task))


def table(matrix: AccuracyMatrix) -> tuple[list[str], list[list]]:
    """Header and rows of a table: after each evaluated task, the accuracy in percent on each task so far, and the mean."""
    tasks, percent = len(matrix.totals), matrix.percent
    measured = [task for task in range(matrix.learned) if math.isfinite(percent[task, 0])]
    rows = [[t + 1, *percent[t, : t + 1].tolist(), *[None] * (tasks - t - 1), matrix.after(t)] for t in measured]
    return ["after task", *(f"task {task + 1}" for task in range(tasks)), "mean"], rows
