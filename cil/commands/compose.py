"""Helpers shared by the scripts and the tests: compose a configuration from settings, and report errors."""

import os
import sys
from collections.abc import Callable

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from cil.commands.run import find_plugins, plain
from cil.common.errors import ELSEWHERE, UserError, explain, nearest
from cil.common.places import CONF
from cil.runs.command_line import refuse


def compose(*words: str) -> dict:
    """The configuration that `python run.py` with these words uses, as nested dictionaries."""
    find_plugins(list(words))
    refuse(words, CONF)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(hydra_compose("config", overrides=list(words)))


def options(group: str) -> list[str]:
    """The options of a configuration group, sorted."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def swept(experiment: str) -> dict[str, list[str]]:
    """The settings that an experiment sweeps over, each with its values."""
    folder = CONF / "experiment"
    file = folder / f"{experiment}.yaml"
    if not file.is_file():
        known = [str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")]
        raise UserError(f"experiment={experiment} is not known; {nearest(experiment, known)}")
    params = OmegaConf.select(OmegaConf.load(file), "hydra.sweeper.params") or {}
    return {key: str(values).split(",") for key, values in params.items()}


def guarded(work: Callable[[], int | None], elsewhere: str = ELSEWHERE) -> int:
    """Call `work` and return the exit code of a script: its result, or 2 after printing a user error in one line."""
    try:
        return work() or 0
    except BrokenPipeError:  # the reader of a pipe, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        line = explain(error, elsewhere=elsewhere)
        if line is None:
            raise
        print("error: " + line.replace("\n", "\nerror: "), file=sys.stderr)
        return 2
