"""Words of a command line become configurations, those of a sweep become the words of its runs, and errors become one line."""

import copy
import fnmatch
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from random import Random
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cil.common import plugins
from cil.common.errors import ELSEWHERE, UserError, explain
from cil.common.places import CONF
from cil.launch.command_line import check_exists, check_range, refuse
from cil.runs.objective import checked_objective, direction, require_defined, require_images
from cil.runs.run_folder import address
from cil.runs.settings import checked, leave_out_usual, of_debug, of_reading

warnings.filterwarnings("ignore", r"\s*'hydra/launcher/submitit")  # conf/hydra/launcher overrides the plugin's on purpose
OmegaConf.register_new_resolver("address", lambda *, _root_: address(checked(plain(_root_))))
OmegaConf.register_new_resolver("reading", lambda paper, released, *, _root_: of_reading(_root_.reading, paper, released))
OmegaConf.register_new_resolver("direction", lambda *, _root_: direction(searched(_root_)))


def plain(config: DictConfig) -> dict:
    """The resolved configuration as nested dictionaries, without Hydra's own settings."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    container: Any = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    if not container.get("plugins"):
        container.pop("plugins", None)
    if isinstance(node := container.get("dataset"), dict) and node.get("names") is None:
        node.pop("names", None)
    leave_out_usual(container)
    node = container.get("scenario")
    if isinstance(node, dict) and checked_objective(container.pop("objective"), node)["on"] == "test":
        container["objective"] = {"on": "test"}  # part of the address; all else about an objective changes no run
    return of_debug(container)


def searched(config: DictConfig) -> str:
    """The metric that a search optimises; raises a `UserError` if it is undefined, or if there are no images to choose on."""
    parts: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, ["objective", "scenario"]), resolve=True)
    require_images(checked_objective(**parts), parts["scenario"])
    require_defined(parts["objective"]["metric"], parts["scenario"], OmegaConf.select(config, "method.curve"))
    return parts["objective"]["metric"]


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


def settings(words: Sequence[str]) -> list[str]:
    """All keys of the configurations that the options among these words select, to suggest one for a wrong key."""
    groups = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())
    chosen: dict[str, list[str]] = {}
    for word in words:
        group, _, option = word.partition("=")
        option = re.sub(r"^choice\((.*)\)$", r"\1", option)
        if pattern := re.fullmatch(r"glob\(([\w*?]+)\)", option):
            option = ",".join(fnmatch.filter(options(group), pattern[1]))
        if group in (*groups, "hydra/launcher", "hydra/sweeper") and re.fullmatch(r"[\w./,-]+|\[[\w./,-]*\]", option):
            chosen[group] = [option] if option.startswith("[") else option.split(",")
    first = {group: several[0] for group, several in chosen.items()}
    others = [first | {group: option} for group, several in chosen.items() for option in several[1:]]
    keys: dict[str, None] = {}
    for own in (first, *others):
        with suppress(HydraException):  # of an option that is misspelt as well
            keys |= dict.fromkeys(keys_of([f"{group}={option}" for group, option in own.items()]))
    return [*groups, *keys]


def keys_of(options: list[str]) -> list[str]:
    """All keys of one configuration, with those of its launcher and sweeper."""
    before = GlobalHydra.instance().hydra  # where an error is explained within Hydra's main
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = hydra_compose("config", options, return_hydra_config=True)
    finally:
        GlobalHydra.instance().hydra = before
    config: Any = OmegaConf.to_container(OmegaConf.masked_copy(composed, [*set(composed) - {"hydra"}]), resolve=False)
    for key in ("launcher", "sweeper"):
        config[f"hydra.{key}"] = OmegaConf.to_container(composed.hydra[key], resolve=False)

    def flat(node: object, prefix: str) -> list[str]:
        inner = node.items() if isinstance(node, dict) else ()
        return [prefix, *(key for name, value in inner for key in flat(value, f"{prefix}.{name}"))]

    return [key for name, node in config.items() for key in flat(node, str(name))]


class PluginFolders(SearchPathPlugin):
    """Adds conf/ of every active plugin to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in plugins.conf_folders():
            search_path.append(provider="cil-plugin", path=f"file://{folder}")


def find_plugins(words: list[str]) -> None:
    """Activate the plugins that the command line or the environment names."""
    if plugins.activate(words) and PluginFolders not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(PluginFolders)


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


def launcher(name: str, *words: str) -> dict:
    """The settings of a launcher of conf/hydra/launcher."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra_compose("config", [f"hydra/launcher={name}", *words], return_hydra_config=True)
    found: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    return found


def options(group: str) -> list[str]:
    """The options of a configuration group, sorted."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def swept(experiment: str) -> dict[str, list[str]]:
    """The settings that an experiment sweeps over, each with its values."""
    folders = [conf / "experiment" for conf in (CONF, *plugins.conf_folders())]
    check_exists("experiment", experiment, folders)
    file = next(file for folder in folders if (file := folder / f"{experiment}.yaml").is_file())
    params = OmegaConf.select(OmegaConf.load(file), "hydra.sweeper.params") or {}
    return {key: str(values).split(",") for key, values in params.items()}


def lines(words: list[str]) -> Iterator[list[str]]:
    """Yield the settings of each run of a sweep, which is written as for python run.py -m and may name an experiment."""
    fixed, axes = [], {}
    overrides = OverridesParser.create().parse_overrides(words)
    for number, (word, override) in enumerate(zip(words, overrides, strict=True)):
        key = word.split("=", 1)[0]
        if not override.is_sweep_override():
            fixed.append(word)
        elif isinstance(override.value(), Glob):
            raise UserError(f"{word} is not spelled out; type the names, as in {key}=A,B")
        elif key == "experiment":  # each experiment has its own grid
            for value in override.sweep_string_iterator():
                yield from lines([*words[:number], f"experiment={value}", *words[number + 1 :]])
            return
        else:
            axes[key] = list(override.sweep_string_iterator())
    named = dict(word.split("=", 1) for word in fixed if "=" in word)
    axes = (swept(named["experiment"]) if "experiment" in named else {}) | axes
    axes = {key: values for key, values in axes.items() if key not in named}
    for values in product(*axes.values()):
        yield [*fixed, *(f"{key}={value}" for key, value in zip(axes, values))]


def drawn(words: list[str], draws: int, seed: int) -> Iterator[list[str]]:
    """Yield the settings of `draws` runs, with random values where a word has several. More draws repeat the first ones."""
    overrides = OverridesParser.create().parse_overrides(words)
    if not any(override.is_sweep_override() for override in overrides):
        raise UserError("no setting has several values to draw from; type one, as in 'optim.lr=tag(log,interval(0.001,0.1))'")
    random = Random(seed)
    for _ in range(draws):
        line = [value_of(override, random) or word for word, override in zip(words, overrides, strict=True)]
        compose(*line)  # so that an error prints none
        yield line


def value_of(override: Override, random: Random) -> str | None:
    """A word with one random value of a setting, to four digits; None if the setting has only one value."""
    if not override.is_sweep_override():
        return None
    if not override.is_interval_sweep():
        return f"{override.get_key_element()}={random.choice([*override.sweep_string_iterator()])}"
    check_range(override)
    value: Any = override.value()
    if "log" in value.tags:
        drawn = math.exp(random.uniform(math.log(value.start), math.log(value.end)))
    else:
        drawn = random.uniform(value.start, value.end)
    return f"{override.get_key_element()}={round(drawn) if isinstance(value.start, int) else f'{drawn:.4g}'}"


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
