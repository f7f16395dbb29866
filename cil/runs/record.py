"""The record of a run folder, `events.jsonl`, as points of curves: what mirrors show."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cil.metrics import AccuracyMatrix
from cil.runs.run_folder import RunDir, read_matrices

SO_FAR = ("acc", "forgetting", "backward_transfer")


class Point(NamedTuple):
    """One line of the record: where it stands on each axis, the axis that its curves are drawn over, and their values."""

    line: int
    clock: dict[str, int]
    axis: str
    values: dict[str, float]


class Record:
    """What a run folder's record has that was not asked for yet."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, RunDir(folder).events
        self.lines = self.epochs = self.images = 0

    def fresh(self, rate: float | None) -> Iterator[Point]:
        """The points since the last call; `rate`: of the last line, if it is an epoch. A line that is being written waits."""
        whole = self.file.read_bytes().split(b"\n")[:-1] if self.file.exists() else []
        while self.lines < len(whole):
            told, last = json.loads(whole[self.lines]), self.lines + 1 == len(whole)
            self.lines += 1
            if "losses" in told:
                yield self._epoch(told, rate if last else None)
            elif "class_il" in told:
                yield self._row(told["task"])

    def _epoch(self, told: dict, rate: float | None) -> Point:
        self.epochs, self.images = self.epochs + 1, self.images + told["images"]
        values = {f"train/{told['phase']}/{name}": value for name, value in told["losses"].items()}
        rate = rate or told["images"] / max(told["seconds"], 1e-3)
        return self._point(told["task"], "epochs", {**values, f"train/{told['phase']}/images_per_second": rate})

    def _row(self, task: int) -> Point:
        values = {}
        for kind, whole in read_matrices(self.folder).items():
            matrix = until(whole, task)
            so_far, row = matrix.summary(), enumerate(matrix.percent[task])
            values |= {f"{kind}/{name}": so_far[name] for name in SO_FAR if so_far[name] is not None}
            values |= {f"{kind}/task_{old + 1:02d}": float(percent) for old, percent in row}
        return self._point(task, "task", values)

    def _point(self, task: int, axis: str, values: dict[str, float]) -> Point:
        clock = {"epochs": self.epochs, "images": self.images, "task": task + 1}
        return Point(self.lines - 1, clock, axis, values)


def until(matrix: AccuracyMatrix, task: int) -> AccuracyMatrix:
    """As the matrix was right after learning `task`."""
    cut = AccuracyMatrix(matrix.totals[: task + 1])
    cut.correct[:] = matrix.correct[: task + 1, : task + 1]
    return cut


def table(matrix: AccuracyMatrix) -> tuple[list[str], list[list]]:
    """Head and rows: percent correct on each task after each task that was followed by a test, and its mean."""
    tasks, percent = len(matrix.totals), matrix.percent
    measured = [task for task in range(matrix.learned) if math.isfinite(percent[task, 0])]
    rows = [[t + 1, *percent[t, : t + 1].tolist(), *[None] * (tasks - t - 1), matrix.after(t)] for t in measured]
    return ["after task", *(f"task {task + 1}" for task in range(tasks)), "mean"], rows
