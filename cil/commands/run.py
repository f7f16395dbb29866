"""Train and evaluate one run, or a sweep of runs, from command-line settings.

python run.py method=finetune scenario=glyphs_10tasks seed=0

Only this file handles Hydra's DictConfig; all other code gets plain dictionaries. torch is imported when a run starts, so that
errors in the settings are reported quickly.
"""

import argparse
import hashlib
import os
import shlex
import sys
import textwrap
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cil.common import places, plugins
from cil.common.errors import SHOW, UserError, explain, sentence
from cil.common.signals import EXIT_CODE, Stopped, stop_request
from cil.runs.command_line import options_first, refuse
from cil.runs.console import Console
from cil.runs.precision import settled
from cil.runs.run_folder import RunDir, address, follows, names, run_at
from cil.runs.settings import checked, of_reading

warnings.filterwarnings("ignore", r"\s*'hydra/launcher/submitit")  # conf/hydra/launcher overrides the plugin's on purpose
os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra passes errors on to this file, which prints them in one line
OmegaConf.register_new_resolver("address", lambda *, _root_: address(checked(plain(_root_))))
OmegaConf.register_new_resolver("reading", lambda paper, released, *, _root_: of_reading(_root_.reading, paper, released))
CONF = str(places.CONF)
WITHOUT_EFFECT = (("sizes", None), ("validation", 0.0))  # left out of the configuration, so that older addresses stay valid
INTERNAL = ("hydra", "size", "family", "recipe", "scratch")  # groups that scenarios and methods choose
FAILED: list[str] = []  # errors that were printed


def plain(config: DictConfig) -> dict:
    """The resolved configuration as nested dictionaries, without Hydra's own settings."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    container: Any = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    if not container.get("plugins"):
        container.pop("plugins", None)
    if isinstance(node := container.get("scenario"), dict):
        container["scenario"] = {key: value for key, value in node.items() if (key, value) not in WITHOUT_EFFECT}
    return container


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")
def main(config: DictConfig) -> None:
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN  # cil/commands/sweep.py prints what becomes of its runs
    if sweep:
        sys.argv = ["run.py", *HydraConfig.get().overrides.task]
    try:
        wanted = checked(plain(config))
        run = run_at(Path(wanted["outputs"]) / address(wanted))
        if run.is_done:
            from cil.common.tables import one_line

            line = f"done already: {one_line(verified(run, wanted))}\n{run.path}"
            print(line, flush=True) if not (sweep or follows()) else None
        else:
            execute(wanted, run)
    except Stopped as stopped:
        print(f"stopped by {stopped}; the same command resumes from the last checkpoint", file=sys.stderr)
        sys.exit(EXIT_CODE)  # ends a sweep too
    except BrokenPipeError:
        raise
    except Exception as error:
        if sweep and Console.prints and not tell(error):  # in a job that has its own log
            traceback.print_exc()  # since the launcher returns the error without it
        if sweep or not tell(error):
            raise


def verified(run: RunDir, config: dict) -> dict:
    """The summary of a finished run; raises a `UserError` if its weights or its images have changed since."""
    from cil.backbones.weights import at_hand, releases

    summary = run.summary()
    if file := at_hand(config["backbone"].get("weights"), config["data"]["weights"]):
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != summary["identity"]["weights_sha256"] and found not in releases(config["backbone"]["weights"]):
            raise UserError(f"{file} is no longer the file that {run.path} was made with; type backbone.sha256={found}")
    if listing := summary.get("data_listing"):
        from cil.engine.build import data_digest, listing_of

        try:
            same = listing_of(config) == listing or data_digest(config) == summary["identity"]["data_digest"]
        except UserError as error:  # for example, they are no longer there
            print(f"the images of this run were not compared with those on the disk: {error}", flush=True)
            same = True
        if not same:
            raise UserError(f"the images have changed since {run.path} was made; type outputs=DIR to keep both results, or "
                            "delete that folder")  # fmt: skip
    return summary


def execute(config: dict, run: RunDir) -> None:
    """Run a configuration to its end in its folder, resuming from a checkpoint if there is one."""
    config = settled(config)
    new = run.writes and not (run.path.exists() and any(run.path.iterdir()))  # Hydra makes the empty folder
    with stop_request() as stop, run.open(config):  # unlocks the folder before a launcher requeues the job
        if run.is_done:  # another process has just finished it
            return
        from cil.engine.build import device_of, experiment  # imports torch
        from cil.engine.processes import own_device
        from cil.engine.summary import finish

        try:
            trainer = experiment(config, run, own_device(device_of(config["machine"]["device"])), stop)
        except BaseException:
            if new:
                run.discard()  # a run that could not start leaves no folder
            raise
        trainer.log.say(f"{' · '.join(names(config))} · seed {config['seed']} → {run.path}")
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
    line = explain(error, settings)
    if line is None and not getattr(error, "in_run", False):
        line = f"{sentence(error)}; {SHOW}"
    if line is not None:
        print(f"error: {name}: {line}" if name else f"error: {line}", file=sys.stderr, flush=True)
        FAILED.append(line)
    return line is not None


def settings() -> list[str]:
    """All keys of the configuration that the options on the command line select, to suggest one for a wrong key."""
    groups = sorted(folder.name for folder in Path(CONF).iterdir() if folder.is_dir())
    pairs = (word.split("=") for word in sys.argv[1:] if word.count("=") == 1)
    words = [f"{group}={option.split(',')[0]}" for group, option in pairs if group in groups]
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        config: Any = OmegaConf.to_container(hydra.compose("config", words), resolve=False)

    def flat(node: object, prefix: str) -> list[str]:
        inner = node.items() if isinstance(node, dict) else ()
        return [prefix, *(key for name, value in inner for key in flat(value, f"{prefix}.{name}"))]

    return groups + [key for name, node in config.items() for key in flat(node, name)]


def options(words: list[str]) -> argparse.Namespace:
    """Return what Hydra reads from the command line; raise a one-line `UserError` for options that it does not know."""

    def refused(message: str) -> NoReturn:
        raise UserError(f"{message}; see {shlex.join(places.entry())} --help")

    parser = get_args_parser()
    parser.error = refused  # type: ignore[method-assign]
    asked = parser.parse_args([word for word in words if word not in ("--help", "-h", "--version")])
    modes = [f"--{mode}" for mode in ("multirun", "run", "cfg", "info", "shell_completion") if getattr(asked, mode)]
    if len(modes) > 1 and modes != ["--multirun", "--cfg"]:
        raise UserError(f"{' and '.join(modes).replace('_', '-')} exclude each other; type one of them")
    return asked


class PluginFolders(SearchPathPlugin):
    """Adds conf/ of every active plugin to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in plugins.conf_folders():
            search_path.append(provider="cil-plugin", path=f"file://{folder}")


def find_plugins(words: list[str]) -> None:
    """Activate the plugins that the command line or the environment names."""
    if plugins.activate(words) and PluginFolders not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(PluginFolders)


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
        names = ", ".join(sorted(str(file.relative_to(group).with_suffix("")) for file in group.rglob("*.yaml") if
                                 group.name != "backbone" or file.parent == group))  # fmt: skip
        lines += textwrap.wrap(f"{group.name}: {names}", 80, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


def front_door() -> int:
    """Run the command line; returns the exit code."""
    FAILED.clear()
    os.environ.update(places.importable())
    try:
        if {"--help", "-h"} & set(sys.argv[1:]):
            print(help_text(), flush=True)
            return 0
        sys.argv[1:] = options_first(sys.argv[1:])
        asked = options(sys.argv[1:])
        find_plugins(sys.argv[1:])
        refuse(sys.argv[1:], Path(CONF))
        many(asked) if asked.multirun else main()
    except BrokenPipeError:  # the reader of a pipe, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Exception, KeyboardInterrupt) as error:
        if not (getattr(error, "told", False) or tell(error)):
            raise
    return 2 if FAILED else 0


def many(asked: argparse.Namespace) -> None:
    """Run the sweep of the command line, or show its configurations."""
    from cil.commands.sweep import Sweep, show_configurations

    if asked.cfg:
        show_configurations(
            [word for word in sys.argv[1:] if word not in ("-m", "--multirun", *asked.overrides)], asked.overrides
        )
        return
    sweep = Sweep(asked.overrides)
    try:
        with sweep.watched():
            main()
    except Exception:
        sweep.end()
        raise
    sweep.end()
