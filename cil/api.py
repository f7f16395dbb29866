"""The Python interface: run a configuration, load a finished run, and read many results as a table.

import cil

run = cil.run("method=l2p", "scenario=glyphs_10tasks", seed=0)
run = cil.load("outputs/glyphs_10tasks/l2p/0123456789/seed0")
run.accuracy                      # (tasks, tasks) percent: row t after task t, column i on task i
run.predict(images)               # classes of (n, height, 3, width) uint8 images
cil.results("outputs")            # one row per finished run
run.predictions[9].scores         # with save.predictions=true; also run.per_class, run.confusion
"""

from collections.abc import Callable

from cil.metrics import AccuracyMatrix
from cil.report.finished import Run, load, results, rows
from cil.runs.record import Reported
from cil.runs.run_folder import read_matrices, run_of

__all__ = ["Run", "load", "results", "rows", "run"]


def run(*words: str, after_task: Callable[[AccuracyMatrix], object] | None = None, **settings: object) -> Run:
    """Run a configuration in this process and return it; a finished one is only loaded.

    `words` are settings as on the command line. `settings` are more of them: `seed=0` is the word `seed=0`.

    `after_task` is called after each task with the accuracies so far, also for tasks that were learned earlier. An exception
    that it raises stops the run, which the same call resumes.
    """
    from cil.launch.compose import compose
    from cil.launch.run import execute, verified
    from cil.runs.settings import checked

    config = checked(compose(*words, *(f"{key}={value}" for key, value in settings.items())))
    folder = run_of(config)
    if config.get("debug"):
        folder.discard()
    if not folder.is_done:
        execute(config, folder, after_task)
    elif verified(folder, config) and after_task:
        Reported(read_matrices(folder.path)["class_il"], after_task)()
    return Run(folder.path)
