"""Helpers shared by the scripts and the tests: compose a configuration from settings, and report errors."""

import copy
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cil.common.errors import ELSEWHERE, UserError, explain
from cil.common.places import CONF
from cil.launch.run import find_plugins, plain, settings
from cil.runs.command_line import check_exists, refuse


def compose(*words: str) -> dict:
    """The configuration that `python run.py` with these words uses, as nested dictionaries."""
    with composing(words):
        return plain(hydra_compose("config", overrides=list(words)))


@contextmanager
def composing(words: Sequence[str]) -> Iterator[None]:
    """Hydra composes in this block. Wrong words are a `UserError` of one sentence, as on the command line."""
    find_plugins(list(words))
    refuse(words, CONF)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, lambda: settings(words)) or str(error)) from None


class Composer:
    """`compose` for many configurations: a file is read once, and words that only set values change a copy.

    Hydra applies such words after it has put the files together, so the result is the same.
    """

    def __init__(self) -> None:
        self._files: Files | None = None
        self._bases: dict[tuple[str, ...], DictConfig] = {}  # by the words that choose files

    def __call__(self, *words: str) -> dict:
        with composing(words):
            loader: Any = GlobalHydra.instance().config_loader()
            self._files = loader.repository = self._files or Files(loader.repository)
            overrides = OverridesParser.create().parse_overrides(list(words))
            values = [o for o in overrides if not (o.is_hydra_override() or loader.repository.group_exists(o.key_or_group))]
            files = tuple(word for word, override in zip(words, overrides) if override not in values)
            if files not in self._bases:
                self._bases[files] = hydra_compose("config", overrides=list(files))
            config = copy.deepcopy(self._bases[files])
            ConfigLoaderImpl._apply_overrides_to_config(values, config)
            return plain(config)


class Files:
    """Hydra's repository of configuration files, which reads each of them once."""

    def __init__(self, repository: Any) -> None:
        self._repository, self._read = repository, dict[str, Any]()

    def load_config(self, config_path: str) -> Any:
        if config_path not in self._read:
            self._read[config_path] = self._repository.load_config(config_path)
        return copy.deepcopy(self._read[config_path])  # Hydra changes what it gets

    def __deepcopy__(self, memo: dict) -> "Files":
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._repository, name)


def options(group: str) -> list[str]:
    """The options of a configuration group, sorted."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def swept(experiment: str) -> dict[str, list[str]]:
    """The settings that an experiment sweeps over, each with its values."""
    folder = CONF / "experiment"
    check_exists("experiment", experiment, [folder])
    params = OmegaConf.select(OmegaConf.load(folder / f"{experiment}.yaml"), "hydra.sweeper.params") or {}
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
