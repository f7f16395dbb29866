"""The predictions of a run: the scores and the predicted class of every test image, and what can be counted from them.

With `save.predictions=true` a run writes `predictions/task_NN.npz` after each task, for all test images that it evaluates then.
Scores are stored as float16, or as float32 if one of them is out of its range. Predicted classes are stored beside them, since
they are decided before the scores are rounded.
"""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cil.common.errors import UserError
from cil.common.files import refusing, replace_file
from cil.runs.run_folder import RunDir, read_matrices

SMALL = ("answers", "labels", "tasks", "rows", "names")  # read with the file; scores only when they are used


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions after one task, on the test images of all tasks so far. Classes are numbered in the order of arrival."""

    file: Path
    answers: np.ndarray  # (images,) the predicted class, among all classes seen
    labels: np.ndarray  # (images,) the true class
    tasks: np.ndarray  # (images,) the task that the image belongs to, from 0
    rows: np.ndarray  # (images,) the position of the image in its split of the dataset
    names: np.ndarray  # (classes,) names of the classes seen

    @cached_property
    def scores(self) -> np.ndarray:
        """(images, classes) scores, rounded to float16; read from the file when they are first used."""
        return _arrays(self.file, ("scores",))["scores"]

    def confusion(self) -> np.ndarray:
        """(classes, classes) number of test images of each true class (rows) that got each predicted class (columns)."""
        return confusion(self.labels, self.answers, len(self.names))

    def per_class(self) -> np.ndarray:
        """(classes,) percent of correct answers among the test images of each class."""
        return per_class(self.confusion())

    def correct(self) -> np.ndarray:
        """(tasks,) number of correct answers on each task."""
        return np.bincount(self.tasks, weights=self.answers == self.labels)


def confusion(labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) counts, true classes in rows; larger if a class is predicted that is not among `classes`."""
    size = max(classes, int(answers.max(initial=-1)) + 1)
    return np.bincount(labels.astype(np.int64) * size + answers, minlength=size * size).reshape(size, size)


def per_class(counts: np.ndarray) -> np.ndarray:
    """(classes,) percent of each row of a confusion matrix that is on its diagonal; NaN for a row without images."""
    totals = counts.sum(1)
    return np.divide(100.0 * counts.diagonal(), totals, out=np.full(len(counts), np.nan), where=totals > 0)


def write(run: RunDir, task: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the predictions after `task` (from 0). An unfinished run removes later ones, left by a killed process."""
    if not arrays or not run.writes:
        return
    scores = arrays["scores"]
    largest = np.abs(scores[np.isfinite(scores)]).max(initial=0.0)
    kind = np.float16 if largest <= np.finfo(np.float16).max else np.float32
    stored: Any = {**arrays, "scores": scores.astype(kind)}
    file = place(run.path, task)
    with replace_file(file) as temporary, temporary.open("wb") as opened:
        np.savez_compressed(opened, **stored)
    for number, later in _files(run.path).items():
        if number > task and not run.is_done:
            later.unlink()


def read(path: Path, tasks: Container[int] | None = None) -> dict[int, Predictions]:
    """The predictions of a finished run after each task (from 0) that has them, or after those of `tasks` only.

    Raises a `UserError` if a file is damaged or is of another run.
    """
    files = {task: file for task, file in _files(path).items() if tasks is None or task in tasks}
    correct = read_matrices(path)["class_il"].correct if files else np.empty((0, 0))
    found = {task: Predictions(file, **_arrays(file, SMALL)) for task, file in files.items()}
    for task, predictions in found.items():
        if task >= len(correct) or not np.array_equal(predictions.correct(), correct[task, : task + 1]):
            raise UserError(f"{predictions.file} does not count what accuracy.csv counts; delete it and type the command of "
                            "the run again with save.predictions=true")  # fmt: skip
    return found


def place(path: Path, task: int) -> Path:
    return path / "predictions" / f"task_{task:02d}.npz"


def _files(path: Path) -> dict[int, Path]:
    files = sorted((path / "predictions").glob("task_*.npz"))
    return {int(file.stem.removeprefix("task_")): file for file in files if re.fullmatch(r"task_\d+", file.stem)}


def _arrays(file: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    damaged = UserError(f"{file} is damaged; delete it and type the command of the run again with save.predictions=true")
    with refusing(damaged), np.load(file, allow_pickle=False) as opened:
        return {name: opened[name] for name in names}
