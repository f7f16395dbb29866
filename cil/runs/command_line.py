"""What is typed, looked at before Hydra reads it: options that are no words, and files that it would pass over in silence."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from cil.common.errors import UserError, nearest

PASSED_OVER = ("experiment", "recipe", "scratch")  # groups of which a method or a data set may have no file
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir", "hydra.job.chdir")
NEEDS_CFG = {"--resolve": "--resolve", "-p": "--package", "--package": "--package"}


def refuse(words: Sequence[str], conf: Path) -> None:
    """Stop, with one sentence, at the first word that would be misread; `conf` holds the groups."""
    shown = any(word in ("--cfg", "-c", "--help", "-h") or word.startswith("--cfg=") for word in words)
    for word in words:
        if word in NEEDS_CFG and not shown:
            raise UserError(f"{NEEDS_CFG[word]} says how a configuration is printed; type --cfg job too, or leave it out")
    for word in words:
        key, equals, value = word.lstrip("+").partition("=")
        if value.strip() == "{}" and not word.startswith("+"):
            raise UserError(f"{key}={{}} changes nothing, since a mapping joins the one that is there; type {key}.NAME=VALUE")
        if key in FOLDERS:
            raise UserError(f"{key} moves no run; type outputs=DIR for another folder")
        group = key.partition("@")[0]
        if not equals or not group or not (conf / group).is_dir():
            continue
        for option in value.split(","):
            if is_no_word(option):
                raise UserError(f"{key}={value} is not the name of an option; {nearest(option, options(conf / group))}")
            if group in PASSED_OVER and option not in ("", "null") and option.replace("/", "").replace("_", "").isalnum():
                known(group, option, conf)


def is_no_word(option: str) -> bool:
    """Whether Hydra reads it as something else than a name: a number, a truth value, a mapping."""
    text = option.strip().lower()
    try:
        float(text)
        return True
    except ValueError:
        return text in ("true", "false", "on", "off", "yes", "no") or text.startswith("{")


def known(group: str, option: str, conf: Path) -> None:
    """Stop where a group has no such file; a folder lists what is in it."""
    place = conf / group / option
    if place.with_name(f"{place.name}.yaml").is_file():
        return
    if place.is_dir():
        raise UserError(f"{group}={option} is a folder; type {group}={option}/ and one of {', '.join(options(place))}")
    raise UserError(f"{group}={option} is not known; {near(option, options(conf / group))}")


def options(folder: Path) -> list[str]:
    """The names of a group's files, those in folders with the folder before them."""
    return sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))


def near(option: str, known: Sequence[str]) -> str:
    """The clause for a group whose options lie in folders: the nearest, else the folders."""
    found = difflib.get_close_matches(option, known, n=3, cutoff=0.4)
    tops = sorted({name.partition("/")[0] for name in known})
    return f"did you mean {', '.join(found)}?" if found else f"there is {', '.join(tops)}"
