"""Finished runs as Python objects and as rows; `cil.api` adds `run`, which makes them."""

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cil.common import places
from cil.common.errors import UserError
from cil.metrics import AccuracyMatrix
from cil.report.collect import COLUMNS, INPUTS, collect, flatten
from cil.runs.predictions import Predictions, read
from cil.runs.run_folder import RunDir, read_matrices

if TYPE_CHECKING:
    import torch

    from cil.engine.trainer import Trainer
    from cil.method import Method

METRICS = {name.replace(" ", "_").replace("-", "_"): place for name, place in COLUMNS.items()}  # columns of `rows`


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
    def predictions(self) -> dict[int, Predictions]:
        """The scores and the predicted class of every test image after each task (from 0), of runs with save.predictions=true.

        A task is absent if nothing was evaluated after it, or if it was learned without this setting.
        """
        found = read(self.path)
        if not found:
            raise UserError(f"{self.path} has no predictions; type its settings again with save.predictions=true")
        return found

    @property
    def per_class(self) -> np.ndarray:
        """(tasks, classes) percent of correct answers for each class after each task; NaN for classes not learned yet."""
        percent = np.full((self.summary["tasks"], len(self.predictions[max(self.predictions)].names)), np.nan)
        for task, found in self.predictions.items():
            own = found.per_class()[: len(found.names)]
            percent[task, : len(own)] = own
        return percent

    @property
    def confusion(self) -> np.ndarray:
        """(classes, classes) number of test images of each true class (rows) that got each predicted class (columns), after the
        last task that has predictions."""
        return self.predictions[max(self.predictions)].confusion()

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


def load(path: str | Path) -> Run:
    """Load a finished run from its folder."""
    return Run(path)


def rows(outputs: str | Path | None = None) -> list[dict[str, Any]]:
    """One row per finished run below `outputs`: names, metrics, digests and every setting of the configuration."""
    return [row(summary) for summary in collect(places.outputs() if outputs is None else Path(outputs))[0]]


def results(outputs: str | Path | None = None) -> Any:
    """The rows as a pandas DataFrame if pandas is installed, otherwise as a list of dictionaries."""
    found = rows(outputs)
    try:
        import pandas
    except ImportError:
        return found
    return pandas.DataFrame(found)


def row(summary: dict[str, Any]) -> dict[str, Any]:
    keys = ("scenario", "method", "seed", "digest", "address", "trained_parameters", "image_encodes", "seconds")
    return {
        **{key: summary.get(key) for key in keys},
        **{name: summary[part][key] for name, (part, key) in METRICS.items()},
        **{key: summary["identity"].get(key) for key in (*INPUTS, "weights", "git_commit", "device")},
        **{key: value for key, value in flatten(summary["config"]).items() if key not in ("seed", "outputs") and value != {}},
    }
