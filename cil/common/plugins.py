"""Plugins: packages outside this repository with own methods, modifiers, backbones and datasets.

A plugin is an importable package. Its folder conf/, if it has one, joins the configuration groups, and its modules may be a
`_target_`. Plugins are named by `plugins=[mylab]` on the command line, by CIL_PLUGINS=mylab,other, or by an entry point of the
group `cil.plugins`.
"""

import ast
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

import yaml

from cil.common.errors import UserError
from cil.common.places import CONF

VARIABLE = "CIL_PLUGINS"
GLOBAL = ("experiment", "method", "recipe", "scenario", "scratch")  # groups of files that also choose options of other groups


def activate(words: Sequence[str] = ()) -> list[str]:
    """Find the plugins that the words of a command line, the environment and entry points name; returns their names.

    They are kept in the environment, so that further processes know them.
    """
    names = active() + [point.value for point in entry_points(group="cil.plugins")]
    for word in words:
        if word.startswith("plugins="):
            names += _listed(word.removeprefix("plugins="))
    names = list(dict.fromkeys(names))
    if names and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a package in the working directory
    for number, name in enumerate(names):
        check_options(name, names[:number])
    if names:
        os.environ[VARIABLE] = ",".join(names)
    return names


def active() -> list[str]:
    return [name for name in os.environ.get(VARIABLE, "").split(",") if name]


def folder(name: str) -> Path:
    """The folder of a plugin."""
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise UserError(f"plugins={name} is not a package that Python finds; install it, or start from its parent folder")
    return Path(next(iter(found.submodule_search_locations)))


def conf_folders() -> list[Path]:
    """The conf/ folders of all active plugins."""
    return [path for name in active() if (path := folder(name) / "conf").is_dir()]


def check_options(name: str, before: Sequence[str]) -> None:
    """Raise a `UserError` on a file of a plugin's conf/ that Hydra would misread, or that hides behind one of the same name.

    `before`: the plugins that were named earlier.
    """
    own = folder(name) / "conf"
    others = {"this project": CONF} | {other: folder(other) / "conf" for other in before}
    for file in sorted(file for file in own.rglob("*.yaml") if not file.name.startswith(".")):
        place = file.relative_to(own)
        for other, conf in others.items():
            if (conf / place).exists():
                raise UserError(f"{file} has the name of a file of {other}, which would be used instead; rename it")
        check_file(file, place.parts[0], file.stat().st_mtime_ns)


@cache
def check_file(file: Path, group: str, changed: int) -> None:
    """Raise a `UserError` if a file of this group is no YAML, or lacks the line that its group needs. Once for each change."""
    try:
        text = file.read_text()
        repeated(yaml.compose(text), file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as YAML ({told(error)}); mend it") from None
    whole = re.search(rf"^(\s*- override /|{group}:)", text, re.M)  # it sets more than what belongs below its group
    if group in GLOBAL and whole and not re.search(r"^#\s*@package\s+_global_", text, re.M):
        raise UserError(f"{file} chooses options of other groups or names its own; make its first line # @package _global_")


def repeated(node: yaml.Node | None, file: Path) -> None:
    """Raise a `UserError` if a mapping has a key twice, of which YAML would take the last and Hydra takes none."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        for (key, value), name in zip(node.value, keys):
            if keys.count(name) > 1:
                raise UserError(f"{file} has {name} twice, the first in line {key.start_mark.line + 1}; leave one out")
            repeated(value, file)


def told(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """What is wrong with a file, and in which line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark else problem


def hint(group: str, option: str) -> str:
    """The package that has an unknown option of a group and only has to be named, as far as Python's path tells; or ""."""
    for place in dict.fromkeys((Path.cwd(), *map(Path, sys.path))):
        for conf in place.glob("*/conf"):
            name = conf.parent.name
            if (conf / group / f"{option}.yaml").is_file() and (conf.parent / "__init__.py").is_file() and name not in active():
                return f"the package {name} has it: add plugins=[{name}]"
    return ""


def identities() -> dict[str, str]:
    """Each active plugin with its version and a digest of its source files."""
    told = {}
    for name in active():
        sha = hashlib.sha256()
        for file in sorted(folder(name).rglob("*")):
            if file.suffix in (".py", ".yaml"):
                sha.update(f"{file.relative_to(folder(name))}\n".encode() + file.read_bytes())
        try:
            known = version(name)
        except PackageNotFoundError:
            known = "no version"
        told[name] = f"{known}, source {sha.hexdigest()[:12]}"
    return told


def _listed(value: str) -> list[str]:
    """The names in `mylab` or `[mylab,other]`."""
    inner = value.strip().removeprefix("[").removesuffix("]")
    return [str(ast.literal_eval(name) if name[:1] in "'\"" else name) for part in inner.split(",") if (name := part.strip())]
