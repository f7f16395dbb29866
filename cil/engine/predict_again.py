"""Adds predictions to a finished run that was made without `save.predictions=true`, from the checkpoints that it kept."""

from contextlib import suppress

import numpy as np

from cil.common.errors import UserError
from cil.common.tables import plural
from cil.engine.build import reopened
from cil.runs import predictions
from cil.runs.console import Console
from cil.runs.run_folder import RunDir, read_matrices


def add_predictions(run: RunDir, config: dict) -> None:
    """Evaluate again after each task whose predictions are missing and whose checkpoint is kept; say which cannot be made.

    The answers must count what accuracy.csv counts, otherwise a `UserError` is raised and nothing is written.
    """
    correct = read_matrices(run.path)["class_il"].correct
    measured = [task for task in range(len(correct)) if np.isfinite(correct[task, 0])]
    missing = [task for task in measured if not has(run, task)]
    able = [task for task in missing if run.after(task + 1)]
    if measured[-1] in missing and measured[-1] not in able:
        raise UserError(f"{run.path} was finished without save.predictions=true and has no checkpoint to make them from; type "
                        "outputs=DIR to run it again")  # fmt: skip
    if able:
        with run.open(config):
            for task in able:
                predictions.write(run, task, again(run, config, task, correct[task, : task + 1].tolist()))
    if not run.writes or not Console.prints:  # a sweep says it of all its runs together
        return
    if able:
        print(f"made the predictions of {plural(len(able), 'task')} from kept checkpoints", flush=True)
    if left := len(missing) - len(able):
        print(f"no predictions after {plural(left, 'earlier task')}, since their checkpoints were not kept; for all,\n"
              "type outputs=DIR save.predictions=true to run it again", flush=True)  # fmt: skip


def again(run: RunDir, config: dict, task: int, correct: list[float]) -> dict[str, np.ndarray]:
    """The predictions after a task, evaluated again from its checkpoint."""
    trainer = reopened(run.path, task + 1, {**config, "save": {"predictions": True}})
    with trainer.precision():
        counted = trainer.evaluation(trainer.scenario[: task + 1])["class_il"]
    if counted != correct:
        raise UserError(f"the checkpoint after task {task + 1} of {run.path} answers {sum(counted)} test images correctly "
                        f"here, where accuracy.csv has {sum(correct):.0f}, so no predictions were written; type outputs=DIR "
                        "to run it again")  # fmt: skip
    return trainer.evaluation.kept


def has(run: RunDir, task: int) -> bool:
    """Whether the predictions after a task can be read."""
    with suppress(UserError, KeyError):
        return predictions.read(run.path, [task])[task].scores.shape[0] > 0
    return False
