"""The Python interface: run a configuration, load a finished run, and read many results as a table.

import cil

run = cil.run("method=l2p", "scenario=glyphs_10tasks", seed=0)
run = cil.load("outputs/glyphs_10tasks/l2p/0123456789/seed0")
run.accuracy                      # (tasks, tasks) percent: row t after task t, column i on task i
run.predict(images)               # classes of (n, height, 3, width) uint8 images
cil.results("outputs")            # one row per finished run
run.predictions[9].scores         # with save.predictions=true; also run.per_class, run.confusion
"""

from pathlib import Path

from cil.report.finished import Run, load, results, rows
from cil.runs.run_folder import RunDir, address

__all__ = ["Run", "load", "results", "rows", "run"]


def run(*words: str, **settings: object) -> Run:
    """Run a configuration in this process and return it; a finished one is only loaded.

    `words` are settings as on the command line. `settings` are more of them: `seed=0` is the word `seed=0`.
    """
    from cil.commands.compose import compose
    from cil.commands.run import execute, verified
    from cil.runs.settings import checked

    config = checked(compose(*words, *(f"{key}={value}" for key, value in settings.items())))
    folder = RunDir(Path(config["outputs"]) / address(config))
    if config.get("debug"):
        folder.discard()
    verified(folder, config) if folder.is_done else execute(config, folder)
    return Run(folder.path)
