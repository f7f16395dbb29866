"""Checks the command line before Hydra reads it: rejects malformed option names and missing files that Hydra ignores."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

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
        if not several and re.match(r"(choice|glob|interval|range|tag)\(", value):
            raise UserError(f"{word} names several values; type -m '{word}' for a sweep")
        if value.strip() == "{}" and not word.startswith("+"):
            raise UserError(f"{key}={{}} changes nothing, since it is merged with the existing mapping; type {key}.NAME=VALUE")
        if key in FOLDERS:
            raise UserError(f"{key} does not move a run; type outputs=DIR for another folder")
        group = key.partition("@")[0]
        if not equals or not group or not (conf / group).is_dir():
            continue
        folders = [folder / group for folder in (conf, *conf_folders())]
        for option in value.split(","):
            if is_literal(option.strip("[]")) or (option == "null" and group not in OPTIONAL):
                raise UserError(f"{key}={value} is not the name of an option; {nearest(option, options(conf / group))}")
            if group in OPTIONAL and option not in ("", "null") and option.replace("/", "").replace("_", "").isalnum():
                check_exists(group, option, folders)


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
