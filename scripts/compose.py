"""Helpers shared by the scripts and the tests: compose a configuration from settings, and report errors."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hydra import compose as hydra_compose  # noqa: E402
from hydra import initialize_config_dir  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from cil.common.errors import ELSEWHERE, UserError, explain, nearest  # noqa: E402
from cil.runs.command_line import refuse  # noqa: E402
from run import plain  # noqa: E402


def compose(*words: str) -> dict:
    """The configuration that `python run.py` with these words uses, as nested dictionaries."""
    refuse(words, ROOT / "conf")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return plain(hydra_compose("config", overrides=list(words)))


def options(group: str) -> list[str]:
    """The options of a configuration group, sorted."""
    return sorted(file.stem for file in (ROOT / "conf" / group).glob("*.yaml"))


def swept(experiment: str) -> dict[str, list[str]]:
    """The settings that an experiment sweeps over, each with its values."""
    folder = ROOT / "conf" / "experiment"
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
        print(f"error: {line}", file=sys.stderr)
        return 2
