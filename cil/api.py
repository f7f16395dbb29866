"""The Python interface: run a configuration, load a finished run, and read many results as a table.

import cil

run = cil.run("method=l2p", "scenario=glyphs_10tasks", seed=0)
run = cil.load("outputs/glyphs_10tasks/l2p/0123456789/seed0")
run.accuracy                      # (tasks, tasks) percent: row t after task t, column i on task i
run.predict(images)               # classes of (n, height, 3, width) uint8 images
cil.results("outputs")            # one row per finished run
"""

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cil.common import places
from cil.common.errors import UserError
from cil.metrics import AccuracyMatrix
from cil.report.every_run import every_run
from cil.runs.record import Reported
from cil.runs.run_folder import RunDir, address, read_matrices

if TYPE_CHECKING:
    import torch

    from cil.engine.trainer import Trainer
    from cil.method import Method


class Run:
    """A finished run. Files are read when an attribute is first used."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not RunDir(self.path).is_done:
            raise UserError(f"{self.path} holds no finished run; type cil.run(…) with its settings to finish it")

    def __repr__(self) -> str:
        acc = self.summary["class_il"]["acc"]
        return (
            f"<{self.summary['method']} on {self.summary['scenario']}, seed {self.summary['seed']}: ACC {acc:.1f}, {self.path}>"
        )

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The contents of summary.json."""
        return RunDir(self.path).summary()

    @property
    def config(self) -> dict[str, Any]:
        return self.summary["config"]

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers: digests of data, order, split and weights, versions, device, commit."""
        return self.summary["identity"]

    @cached_property
    def matrices(self) -> dict[str, AccuracyMatrix]:
        """An accuracy matrix for each definition of a correct answer: `class_il`, `task_il` and others."""
        return read_matrices(self.path)

    @property
    def accuracy(self) -> np.ndarray:
        """(tasks, tasks) percent of correct answers among all classes seen; NaN for tasks not learned yet."""
        return self.matrices["class_il"].percent

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The record of the run: losses and accuracies in the order in which they were measured."""
        return [json.loads(line) for line in RunDir(self.path).events.read_text().splitlines()]

    @cached_property
    def trainer(self) -> "Trainer":
        """The run as it was after its last task, with its scenario and its trained method."""
        from cil.engine.build import reopened

        return reopened(self.path)

    @property
    def method(self) -> "Method":
        return self.trainer.method

    def predict(self, images: "torch.Tensor") -> "torch.Tensor":
        """Return the classes, (n,), of uint8 images (n, height, 3, width), as numbers in the order of arrival.

        `run.trainer.scenario.class_names[k]` is the name of class k.
        """
        import torch

        view = self.trainer.scenario.views[1]
        with torch.inference_mode():
            return self.method.predict(view(images).to(self.trainer.machine.device)).argmax(1).cpu()


def run(*words: str, after_task: Callable[[AccuracyMatrix], object] | None = None, **settings: object) -> Run:
    """Run a configuration in this process and return it; a finished one is only loaded.

    `words` are settings as on the command line. `settings` are more of them: `seed=0` is the word `seed=0`.

    `after_task` is called after each task with the accuracies so far, also for tasks that were learned earlier. An exception
    that it raises stops the run, which the same call resumes.
    """
    from cil.commands.compose import compose
    from cil.commands.run import execute, verified
    from cil.runs.settings import checked

    config = checked(compose(*words, *(f"{key}={value}" for key, value in settings.items())))
    folder = RunDir(Path(config["outputs"]) / address(config))
    if not folder.is_done:
        execute(config, folder, after_task)
    elif verified(folder, config) and after_task:
        Reported(read_matrices(folder.path)["class_il"], after_task)()
    return Run(folder.path)


def load(path: str | Path) -> Run:
    """Load a finished run from its folder."""
    return Run(path)


def rows(outputs: str | Path | None = None) -> list[dict[str, Any]]:
    """One row per finished run below `outputs`: names, metrics, digests and every setting of the configuration."""
    return every_run(places.outputs() if outputs is None else Path(outputs))


def results(outputs: str | Path | None = None) -> Any:
    """The rows as a pandas DataFrame if pandas is installed, otherwise as a list of dictionaries."""
    found = rows(outputs)
    try:
        import pandas
    except ImportError:
        return found
    return pandas.DataFrame(found)
