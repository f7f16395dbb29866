"""What surrounds a search with Optuna's sweeper: conf/hydra/sweeper/optuna.yaml names this file."""

import contextlib
import io
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from cil.common.tables import one_line
from cil.runs.run_folder import run_of
from cil.runs.settings import checked

RESULTS = "optimization_results.yaml"  # written by the sweeper at the end of a search


class AfterSearch(Callback):
    """After a search, runs the best settings on all training images and prints their test accuracy, once."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("hydra_plugins.hydra_optuna_sweeper").setLevel(logging.CRITICAL)  # run.py has printed the errors

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from cil.launch.run import tell

        found = yaml.safe_load((Path(config.hydra.sweep.dir) / RESULTS).read_text())
        words = without_ranges([*config.hydra.overrides.task], found["best_params"])
        on = config.objective["on"]
        print(f"best of {config.hydra.sweeper.n_trials} trials: {shlex.join(words)}")
        print(f"{config.objective.metric} {found['best_value']:.1f} on the {on} images", flush=True)
        if on == "test":
            return print("these settings were chosen on test accuracy, so it says too much; tables mark them")
        try:
            print(f"on the test images, learned from all training images: {tested(words)}", flush=True)
        except Exception as error:  # Hydra would only warn
            if not tell(error):
                raise
        return None


class Told(JobReturn):
    """A failed trial whose error was printed. A sweeper that asks for its value gets the error; Hydra would print it again."""

    @property  # type: ignore[misc]
    def return_value(self) -> Any:
        raise self._return_value


def without_ranges(words: list[str], best: dict[str, Any]) -> list[str]:
    """The settings of a search with the best value in place of each range."""
    keys = [override.get_key_element() for override in OverridesParser.create().parse_overrides(words)]
    return [f"{key}={best[key]}" if key in best else word for key, word in zip(keys, words)]


def tested(words: list[str]) -> str:
    """Run settings on all training images, without printing its progress, and return the metrics on the test images."""
    from cil.launch.compose import compose
    from cil.launch.run import execute

    GlobalHydra.instance().clear()  # the search has ended, and Hydra composes one configuration at a time
    last = {word.partition("=")[0]: word for word in words}  # a value that the search chose replaces one that was typed
    words = list((last | {"scenario.validation": "scenario.validation=0"}).values())
    sys.argv = ["run.py", *words]  # the command in summary.json
    config = checked(compose(*words))
    run = run_of(config)
    if not run.is_done:
        with contextlib.redirect_stdout(io.StringIO()):
            execute(config, run)
    return f"{one_line(run.summary())}\nfiles: {run.path}"
