"""Checks the command line before Hydra reads it: rejects malformed option names and missing files that Hydra ignores."""

import difflib
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from cil.common.errors import UserError, nearest
from cil.common.plugins import conf_folders
from cil.data.registry.sizes import IN_WORDS

OPTIONAL = ("experiment", "recipe", "scratch")  # groups where a method or dataset may have no file: Hydra ignores a wrong name
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir", "hydra.job.chdir")
NEEDS_CFG = {"--resolve": "--resolve", "-p": "--package", "--package": "--package"}


def refuse(words: Sequence[str], conf: Path) -> None:
    """Raise a `UserError` at the first command-line word that Hydra would misread; `conf` is the configuration folder."""
    prints_config = any(word in ("--cfg", "-c", "--help", "-h") or word.startswith("--cfg=") for word in words)
    for word in words:
        if word in NEEDS_CFG and not prints_config:
            raise UserError(f"{NEEDS_CFG[word]} says how a configuration is printed; type --cfg job too, or leave it out")
    refuse_two_splits({key: value for key, _, value in (word.lstrip("+").partition("=") for word in words)})
    several = any(word in ("-m", "--multirun") for word in words)
    for word in words:
        key, equals, value = word.lstrip("+").partition("=")
        if "…" in word:
            raise UserError(f"{word} stands for more settings; type them as key=value, or leave it out")
        if not several and key == key.strip() and re.fullmatch(r"[\w./-]+(,[\w./-]+)+", value):
            one = f", or {key}=[{value}] for a list" if "." in key else ""
            raise UserError(f"{word} names several values; type -m {word} for a sweep{one}")
        listed = value[1:-1] if key == "modifier" and value.startswith("[") else value if several else ""
        if re.fullmatch(r"[\w./-]+(,[\w./-]+)+", listed):
            option, times = Counter(listed.split(",")).most_common(1)[0]
            if times > 1:
                raise UserError(f"{word} names {option} twice; leave one out")
        if not several and (found := re.match(r"(choice|glob|interval|range|tag)\(", value)):
            search = "hydra/sweeper=optuna " if found[1] in ("interval", "tag") else ""
            raise UserError(f"{word} names several values; type -m {search}'{word}' for a {'search' if search else 'sweep'}")
        if value.strip() == "{}" and not word.startswith("+"):
            raise UserError(f"{key}={{}} changes nothing, since it is merged with the existing mapping; type {key}.NAME=VALUE")
        if key in FOLDERS:
            raise UserError(f"{key} does not move a run; type outputs=DIR for another folder")
        group = key.partition("@")[0]
        if not equals or not group or not (conf / group).is_dir():
            continue
        if not value:
            raise UserError(f"{word} names no option; {nearest(value, options(conf / group))}")
        folders = [folder / group for folder in (conf, *conf_folders())]
        for option in value.split(","):
            if is_literal(option.strip("[]")) or (option == "null" and group not in OPTIONAL):
                raise UserError(f"{key}={value} is not the name of an option; {nearest(option, options(conf / group))}")
            if value.startswith("[") and group not in ("modifier", "experiment"):
                raise UserError(f"{word} is a list, and {key} has one option; type {key}={option.strip('[]')}")
            if group in OPTIONAL and option not in ("", "null") and option.replace("/", "").replace("_", "").isalnum():
                check_exists(group, option, folders)


def refuse_unused(words: Sequence[str], swept: Callable[[str], Mapping[str, object]]) -> None:
    """Raise a `UserError` if one run is asked for with words that only a sweep reads; warn of an experiment that is a sweep."""
    typed = {key: value for key, _, value in (word.lstrip("+").partition("=") for word in words)}
    for key in ("hydra/launcher", "hydra/sweeper"):
        if key in typed:
            raise UserError(f"{key}={typed[key]} is for several runs; type -m too, or leave it out")
    axes: Mapping[str, object] = {}
    with suppress(UserError):  # of a name that Hydra tells
        axes = swept(typed["experiment"]) if typed.get("experiment") else {}
    if unset := ", ".join(key for key in axes if key not in typed):
        print(f"warning: {typed['experiment']} is a sweep over {unset}; type -m to run all of it", file=sys.stderr)


def refuse_search(
    words: Sequence[str], overrides: Sequence[Override], swept: Callable[[str], Mapping[str, object]]
) -> None:  # fmt: skip
    """Raise a `UserError` if a search by Optuna has nothing to choose, would choose a seed, or has a range without numbers."""
    typed = {key: value for key, _, value in (word.lstrip("+").partition("=") for word in words)}
    ranges = [override for override in overrides if override.is_sweep_override()]
    elsewhere = any(key.startswith("hydra.sweeper.params") for key in typed) or swept(typed.get("experiment", ""))
    if not ranges and not elsewhere:
        raise UserError("no setting has several values to choose from; type one, as in 'optim.lr=tag(log,interval(0.001,0.1))'")
    for override in ranges:
        if override.key_or_group == "seed":
            raise UserError(
                f"{override.input_line} would choose the best seed; type one seed, and run the best settings with more"
            )
        check_range(override)
    trials = typed.get("hydra.sweeper.n_trials", "1")
    if not trials.isdecimal() or int(trials) < 1:
        raise UserError(f"hydra.sweeper.n_trials={trials} is not a number of runs; type 1 or more")


def check_range(override: Override) -> None:
    """Raise a `UserError` if a range of numbers is empty, or has no logarithms and is tagged log."""
    value: Any = override.value()
    if override.is_interval_sweep() and (not value.start < value.end or ("log" in value.tags and value.start <= 0)):
        raise UserError(f"{override.input_line} holds no numbers to draw from; type another range, as in interval(0.001,0.1)")


def refuse_two_splits(typed: Mapping[str, str]) -> None:
    """Raise a `UserError` if `scenario.sizes` is typed beside a number of tasks or a first size that contradicts it."""
    sizes = typed.get("scenario.sizes", "")
    own = {"scenario.tasks": str(sizes.count(",") + 1), "scenario.first": sizes.strip("[]").partition(",")[0].strip()}
    if words := IN_WORDS.fullmatch(sizes):
        own = {"scenario.tasks": "", "scenario.first": words[1]}  # how many tasks depends on the number of classes
    for key, value in own.items() if words or sizes.startswith("[") else ():
        if typed.get(key, "null") not in ("null", value):
            raise UserError(f"scenario.sizes={sizes} is used in place of {key}={typed[key]}; leave one of the two out")


def options_first(words: Sequence[str]) -> list[str]:
    """Put options, such as -m, before the settings, since Hydra accepts none between two settings."""
    return sorted(words, key=lambda word: word.startswith("~") or ("=" in word and not word.startswith("-")))


def is_literal(option: str) -> bool:
    """Whether Hydra reads the option as a number, a boolean or a mapping instead of a name."""
    text = option.strip().lower()
    try:
        float(text)
        return True
    except ValueError:
        return text in ("true", "false", "on", "off", "yes", "no") or text.startswith("{")


def check_exists(group: str, option: str, folders: Sequence[Path]) -> None:
    """Raise a `UserError` if no folder of the group has a file of this name; for a folder, the message lists its options."""
    for folder in folders:
        path = folder / option
        if path.with_name(f"{path.name}.yaml").is_file():
            return
        if path.is_dir():
            raise UserError(f"{group}={option} is a folder; type {group}={option}/ and one of {', '.join(options(path))}")
    known = [name for folder in folders for name in options(folder)]
    similar = difflib.get_close_matches(option, known, n=3, cutoff=0.4)
    tops = sorted({name.partition("/")[0] for name in known})
    hint = f"did you mean {', '.join(similar)}?" if similar else f"choose from {', '.join(tops)}"
    raise UserError(f"{group}={option} is not known; {hint}")


def options(folder: Path) -> list[str]:
    """The options of a group, sorted: file names without suffix, with their subfolder in front if they have one."""
    return sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))
