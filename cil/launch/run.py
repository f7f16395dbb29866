"""Train and evaluate one run, or a sweep of runs, from command-line settings.

python run.py method=finetune scenario=glyphs_10tasks seed=0

Only this package handles Hydra's DictConfig; all other code gets plain dictionaries. torch is imported when a run starts, so
that errors in the settings are reported quickly.
"""

import argparse
import hashlib
import os
import shlex
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig

from cil.common import places
from cil.common.errors import SHOW, UserError, explain, sentence
from cil.common.signals import EXIT_CODE, Stopped, stop_request
from cil.launch.command_line import options, options_first, refuse, refuse_search, refuse_unused
from cil.launch.compose import drawn, find_plugins, plain, searched, settings, swept
from cil.metrics import AccuracyMatrix
from cil.runs.console import Console
from cil.runs.objective import value_of
from cil.runs.precision import settled
from cil.runs.record import Reported
from cil.runs.run_folder import RunDir, follows, names, run_at, run_of
from cil.runs.settings import checked

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra passes errors on to this file, which prints them in one line
TOLD: list[str] = []  # what the runs of a sweep lack, which was told before the first of them
TRIED: set[Path] = set()  # folders of runs with debug=true that were just trained together
FAILED: list[str] = []  # errors that were printed
INTERNAL = ("hydra", "size", "family", "recipe", "scratch")  # groups that scenarios and methods choose


@hydra.main(version_base="1.3", config_path=str(places.CONF), config_name="config")
def main(config: DictConfig) -> float | None:
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN  # cil/launch/sweep.py prints what becomes of its runs
    if sweep:
        sys.argv = ["run.py", *HydraConfig.get().overrides.task]
    try:
        wanted = checked(plain(config))
        metric = searched(config) if in_search() else None
        run = run_at(run_of(wanted).path)
        if wanted.get("debug") and run.writes and run.path not in TRIED:
            run.discard()  # it tries everything again
        if run.is_done:
            from cil.common.tables import one_line

            line = f"done already: {one_line(verified(run, wanted))}\n{run.path}"
            print(line, flush=True) if not (sweep or follows()) else None
        else:
            execute(wanted, run)
        return value_of(run.summary(), metric) if metric else None
    except Stopped as stopped:
        print(f"stopped by {stopped}; the same command resumes from the last checkpoint", file=sys.stderr)
        sys.exit(EXIT_CODE)  # ends a sweep too
    except BrokenPipeError:  # the reader of a pipe, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("stopped, since nothing reads the output any more; the same command resumes", file=sys.stderr)
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        if sweep and Console.prints and not tell(error):  # in a job that has its own log
            traceback.print_exc()  # since the launcher returns the error without it
        if sweep or not tell(error):
            raise
    return None


def in_search() -> bool:
    """Whether this run is a trial of a search: of a sweeper other than Hydra's own, or of a W&B sweep."""
    hydra_config = HydraConfig.get()
    swept = hydra_config.mode is RunMode.MULTIRUN and not hydra_config.sweeper._target_.endswith(".BasicSweeper")
    return swept or "WANDB_SWEEP_ID" in os.environ


def verified(run: RunDir, config: dict) -> dict:
    """The summary of a finished run; raises a `UserError` if its weights or its images have changed since."""
    from cil.backbones.weights import at_hand, releases

    summary = run.summary()
    if file := at_hand(config["backbone"].get("weights"), config["data"]["weights"]):
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != summary["identity"]["weights_sha256"] and found not in releases(config["backbone"]["weights"]):
            raise UserError(f"{file} is no longer the file that {run.path} was made with; type backbone.sha256={found}")
    if str(order := config["scenario"].get("order")).endswith(".txt"):
        from cil.engine.build import order_digest

        if order_digest(config) != summary["identity"]["order_digest"]:
            raise UserError(f"{order} has changed since {run.path} was made; give the new class order another file name")
    if summary.get("data_listing"):
        from cil.engine.build import same_images

        try:
            same = same_images(config, summary)
        except UserError as error:  # for example, they are no longer there
            print(f"the images of this run were not compared with those on the disk: {error}", flush=True)
            same = True
        if not same:
            raise UserError(f"the images have changed since {run.path} was made, or the words of dataset.names; type "
                            "outputs=DIR to keep both results, or delete that folder")  # fmt: skip
    if config["save"]["predictions"]:  # adds those of a run that was made without them
        from cil.engine.predict_again import add_predictions

        add_predictions(run, config)
    return summary


def execute(config: dict, run: RunDir, after_task: Callable[[AccuracyMatrix], object] | None = None) -> None:
    """Run a configuration to its end in its folder, resuming from a checkpoint if there is one.

    `after_task` is called as `Reported` describes.
    """
    config = settled(config)
    new = run.writes and not (run.path.exists() and any(run.path.iterdir()))  # Hydra makes the empty folder
    with stop_request() as stop, run.open(config):  # unlocks the folder before a launcher requeues the job
        if run.is_done:  # another process has just finished it
            return
        try:
            from cil.engine.missing import require

            require(config)  # before torch is imported

            from cil.engine.build import device_of, experiment
            from cil.engine.processes import own_device
            from cil.engine.summary import finish

            trainer = experiment(config, run, own_device(device_of(config["machine"]["device"])), stop)
        except BaseException:
            if new:
                run.discard()  # a run that could not start leaves no folder
            raise
        trainer.log.say(f"{' · '.join(names(config))} · seed {config['seed']} → {run.path}")
        if after_task:
            trainer.report = Reported(trainer.matrix, after_task)
        try:
            trainer.fit()
            if not follows():
                finish(trainer, config)
        except Exception as error:
            error.in_run = True  # type: ignore[attr-defined]
            raise
        finally:
            trainer.log.close()
        if stop:
            raise Stopped(stop.name)  # a signal came while the run was finishing: end a sweep here


def tell(error: BaseException, name: str = "") -> bool:
    """Print an error in one line if it is a user error; returns False if it may be a bug in this project.

    `name`: the run of a sweep that it belongs to.

    Every error before training starts counts as a user error: its first line is printed if there is no better explanation.
    """
    if os.environ.get("TRACE"):  # TRACE=1 python run.py …: the traceback
        return False
    line = explain(error, lambda: settings(sys.argv[1:]))
    if line is None and not getattr(error, "in_run", False):
        line = f"{sentence(error)}; {SHOW}"
    if line is not None:
        for part in line.split("\n"):
            if name or part not in TOLD:
                what = "as told above" if part in TOLD else part
                print(f"error: {name}: {what}" if name else f"error: {what}", file=sys.stderr, flush=True)
        FAILED.append(line)
    return line is not None


def help_text() -> str:
    """What --help prints: examples, then the options of every group, wrapped to 80 columns."""
    command = shlex.join(places.entry())
    lines = [
        "Train and evaluate class-incremental learning methods on vision transformers",
        "and CLIP.",
        "",
        f"  {command} method=finetune                      one run",
        f"  {command} -m method=finetune,joint seed=0,1,2  a sweep",
        f"  {command} method=finetune --cfg job            the settings of a run",
        "",
        "A finished run is not repeated. Any setting can be given, as in train.epochs=3",
        "optim.lr=0.01.",
        "",
        "Options, as in group=option:",
        "",
    ]
    for group in sorted(folder for folder in places.CONF.iterdir() if folder.is_dir() and folder.name not in INTERNAL):
        names = ", ".join(name for name in options(group) if group.name != "backbone" or "/" not in name)
        lines += textwrap.wrap(f"{group.name}: {names}", 80, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


def parsed(words: list[str]) -> argparse.Namespace:
    """Return what Hydra reads from the command line; raise a one-line `UserError` for options that it does not know."""

    def refused(message: str) -> NoReturn:
        raise UserError(f"{message}; see python run.py --help")

    parser = get_args_parser()
    parser.error = refused  # type: ignore[method-assign]
    asked = parser.parse_args([word for word in words if word not in ("--help", "-h", "--version")])
    modes = [f"--{mode}" for mode in ("multirun", "run", "cfg", "info", "shell_completion") if getattr(asked, mode)]
    if len(modes) > 1 and modes != ["--multirun", "--cfg"]:
        raise UserError(f"{' and '.join(modes).replace('_', '-')} exclude each other; type one of them")
    return asked


def replace_sweeper(words: list[str]) -> None:
    """Let conf/hydra/sweeper/optuna.yaml replace the file of the same name in Optuna's plugin, which minimises by default."""
    Plugins.instance()  # imports the plugins that are installed
    found: Any = ConfigStore.instance().repo["hydra"].get("sweeper", {})
    found.pop("optuna.yaml", None)
    if "hydra/sweeper=optuna" in words and find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        raise UserError("hydra/sweeper=optuna needs Optuna; type pip install hydra-optuna-sweeper, or see docs/search.md")


def front_door() -> int:
    """Run the command line; returns the exit code."""
    FAILED.clear()
    TOLD.clear()
    os.environ.update(places.importable())
    try:
        if {"--help", "-h"} & set(sys.argv[1:]):
            print(help_text(), flush=True)
            return 0
        sys.argv[1:] = options_first(sys.argv[1:])
        asked = parsed(sys.argv[1:])
        find_plugins(sys.argv[1:])
        replace_sweeper(sys.argv[1:])
        refuse(sys.argv[1:], places.CONF)
        if not asked.multirun:
            if not asked.cfg:
                refuse_unused(asked.overrides, swept)
            main()
        else:
            from cil.launch.sweep import many
            from cil.launch.sweep_check import check_sweep

            if "hydra/sweeper=optuna" in asked.overrides:
                overrides = OverridesParser.create().parse_overrides(asked.overrides)
                refuse_search(asked.overrides, overrides, lambda name: swept(name) if name else {})
                if any(override.is_sweep_override() for override in overrides):  # compose a first trial
                    next(drawn([word for word in asked.overrides if not word.lstrip("+").startswith("hydra")], 1, seed=0))
            if asked.cfg or not check_sweep(sys.argv[1:]):
                many(asked, main)
    except BrokenPipeError:  # the reader of a pipe, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Exception, KeyboardInterrupt) as error:
        if not (getattr(error, "told", False) or tell(error)):
            raise
    return 2 if FAILED else 0
