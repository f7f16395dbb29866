"""Documentation blocks made from code and YAML alone: lists of backbones, scenarios and methods, and facts of each method.

`python scripts/fill_docs.py generated` writes them; tests/docs/test_generated_docs.py fails if one of them is outdated.
"""

import inspect
import json
import re
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

import yaml

from cil.common import switches
from cil.common.tables import fill
from cil.engine.build import find
from cil.report.collect import flatten
from cil.report.documents.project import Project

RESULTS = "results"
READINGS = ("paper", "released")
PAPER_SIZED = "scenario=cifar100_10tasks"
SETTING = re.compile(r"^  (\w+): (.*?)(?:\s+# (.*))?$")


def fill_all(at: Project, settings: list[str]) -> None:
    for page, block, content in blocks(at):
        fill(page, block, content)
    for name in at.options("method"):
        if not (at.root / "docs" / "methods" / f"{name}.md").exists():
            print(f"method={name} has no page; if it is to ship with the project, copy one to docs/methods/{name}.md")


def blocks(at: Project) -> Iterator[tuple[Path, str, str]]:
    """Yields (page, name, content) of every generated block."""
    docs = at.root / "docs"
    yield docs / "backbones.md", "backbones", backbones(at)
    yield docs / "scenarios.md", "scenarios", scenarios(at)
    yield docs / "methods" / "index.md", "methods", methods(at)
    for modifier, host in (("pgp", "l2p"), ("nsp2", "pet")):
        page, node = docs / "methods" / f"{modifier}.md", at.compose(f"method={host}", f"modifier={modifier}")["modifier"]
        yield page, "readings", of_modifier(at, modifier, host)
        yield page, "settings", settings_of(at, "modifier", modifier, find(node[modifier]["_target_"], "modifier"))
    for page in sorted((docs / "methods").glob("*.md")):
        if page.stem in at.options("method"):
            for block, content in of_method(at, page.stem).items():
                yield page, block, content


def described(root: Path, group: str, name: str) -> str:
    """The comment at the head of a YAML file, as one paragraph."""
    lines = (root / "conf" / group / f"{name}.yaml").read_text().splitlines()
    comments = takewhile(lambda line: line.startswith("#"), lines)
    head = [line.removeprefix("#").strip() for line in comments if not line.startswith("# @package")]
    return re.sub(r"\$\{([^}]*)\}", r"`${\1}`", " ".join(head)).replace("|", "\\|")


def grid(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table without padding, so that a change of one row changes only one line of the file."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# --- lists ----------------------------------------------------------------------------------------------------------------


def backbones(at: Project) -> str:
    lines = []
    for name in at.options("backbone"):
        node = yaml.safe_load((at.root / "conf" / "backbone" / f"{name}.yaml").read_text())
        lines.append([f"`{name}`", str(node.get("image", {}).get("size", "–")), described(at.root, "backbone", name)])
    return grid(["backbone", "pixels", "what it is"], lines)


def scenarios(at: Project) -> str:
    lines = []
    for name in at.options("scenario"):
        node = at.compose(f"scenario={name}")["scenario"]
        lines.append([f"`{name}`", str(node["tasks"]), f"`{node['order']}`", described(at.root, "scenario", name)])
    return grid(["scenario", "tasks", "order", "what it is"], lines)


def methods(at: Project) -> str:
    """The table of all methods that have a page."""
    lines = []
    for name in at.options("method"):
        page = at.root / "docs" / "methods" / f"{name}.md"
        if page.exists():
            kept = "memory" in at.compose(f"method={name}", PAPER_SIZED)["method"]
            told = page.read_text().split("\n\n")[1].replace("\n", " ").replace("|", "\\|")  # the paragraph after the title
            lines.append([f"[`{name}`]({name}.md)", told, f"`{family(at, name)}`", "yes" if kept else "no"])
    return grid(["method", "what it does", "backbone", "memory"], lines)


def family(at: Project, method: str) -> str:
    text = (at.root / "conf" / "method" / f"{method}.yaml").read_text()
    found = re.search(r"override /family: (\w+)", text)
    return found.group(1) if found else "vit_b16_in21k"


# --- a method -------------------------------------------------------------------------------------------------------------


def of_method(at: Project, method: str) -> dict[str, str]:
    own = find(at.compose(f"method={method}", PAPER_SIZED)["method"]["_target_"], "method")
    return {
        "about": about(own),
        "settings": settings_of(at, "method", method, own),
        "readings": readings(at, method),
        "recipes": recipes(at, method),
        "measured": measured(at, method),
    }


def about(own: type) -> str:
    paragraphs = [" ".join(text.split()) for text in (sys.modules[own.__module__].__doc__, own.__doc__) if text]
    return "\n>\n".join(["> *From the docstrings:*", *(f"> {part}" for part in paragraphs)])


def settings_of(at: Project, group: str, name: str, own: type) -> str:
    """The table of settings of a method or modifier, followed by the constructor's docstring.

    Values and notes come from the YAML file and its comments, types from the constructor's signature.
    """
    groups = [some.annotation for some in inspect.signature(own).parameters.values()]
    documented = [vars(own).get("__init__"), *filter(switches.is_group, groups)]
    docstring = "\n\n".join(inspect.cleandoc(some.__doc__) for some in documented if some and some.__doc__)
    kinds, node = switches.settings_of(own), group if group == "method" else name
    text = (at.root / "conf" / group / f"{name}.yaml").read_text().partition(f"\n{node}:")[2]
    lines = []
    for line in text.splitlines()[1:]:
        if not line.startswith("  "):
            break
        if (found := SETTING.match(line)) and found.group(1) in kinds:
            key, value, note = found.groups()
            path = f"`{group}.{key}`" if group == "method" else f"`{group}.{name}.{key}`"
            lines.append([path, shown(value), kind_of(kinds[key].annotation), (note or "").replace(" | ", " / ")])
    if not lines:
        return f"This {group} has no settings of its own."
    table = grid(["setting", "value", "type", "note"], lines)
    return f"{table}\n\n{docstring}" if docstring else table


def kind_of(annotation: object) -> str:
    """A type in words, with the range of a number if it has one."""
    parts = get_args(annotation)
    if get_origin(annotation) in (UnionType, Union):
        return " or ".join(map(kind_of, sorted(parts, key=lambda part: get_origin(part) is dict)))  # `null` before what follows
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{word}`" for word in parts)
    if get_origin(annotation) is Annotated:
        return " ".join([kind_of(parts[0]), *(some.words() for some in parts[1:] if hasattr(some, "words"))])
    if get_origin(annotation) is dict:
        return f"a mapping, each value {kind_of(parts[1])}"
    if annotation is NoneType:
        return "`null`"
    return f"`{inspect.formatannotation(annotation).rpartition('.')[2]}`"


def shown(value: str) -> str:
    """The value of a setting; if it depends on the reading, both values."""
    if found := re.fullmatch(r'"?\$\{reading:([^,]+),(.+)\}"?', value):
        paper, released = (part.strip() for part in found.groups())
        return f"`{paper}`, released: `{released}`"
    return f"`{value}`"


def readings(at: Project, method: str) -> str:
    """The table of settings in which the two readings differ."""
    found = differing(at, [f"method={method}", PAPER_SIZED])
    return side_by_side(found) if found else "`reading=paper` and `reading=released` are the same for this method."


def side_by_side(found: dict[str, tuple[object, object]]) -> str:
    lines = [[f"`{key}`", *(f"`{json.dumps(value)}`" for value in values)] for key, values in found.items()]
    return grid(["setting", "`reading=paper`", "`reading=released`"], lines)


def of_modifier(at: Project, modifier: str, host: str) -> str:
    """The table of a modifier's settings in which the two readings differ."""
    found = differing(at, [f"method={host}", f"modifier={modifier}", PAPER_SIZED])
    return side_by_side({key: values for key, values in found.items() if key.startswith("modifier.")})


def differing(at: Project, words: list[str]) -> dict[str, tuple[object, object]]:
    """The settings that depend on the reading, each with its values in `READINGS`."""
    paper, released = (flatten(at.compose(*words, f"reading={name}")) for name in READINGS)
    return {key: (value, released[key]) for key, value in paper.items() if key != "reading" and value != released[key]}


def recipes(at: Project, method: str) -> str:
    """The training recipe of a method, and its changes for each dataset."""
    own = yaml.safe_load((at.root / "conf" / "method" / f"{method}.yaml").read_text())
    base = {key: own[key] for key in ("optim", "schedule", "train") if key in own}
    lines = [["default", ", ".join([*chosen(own), *words_of(base)])]]
    for dataset in at.options("dataset"):
        if file := recipe_of(at.root, method, dataset):
            node = yaml.safe_load(file.read_text())
            lines.append([f"`dataset={dataset}`", ", ".join([*chosen(node), *words_of(node)])])
    return f"{described(at.root, 'method', method)}\n\n{grid(['where', 'what'], lines)}"


def recipe_of(root: Path, method: str, dataset: str) -> Path | None:
    """The file of a method's recipe for a dataset, if there is one."""
    files = (root / "conf" / "recipe" / method / f"{dataset}.yaml", root / "conf" / "recipe" / f"{method}_{dataset}.yaml")
    return next((file for file in files if file.exists()), None)


def chosen(node: dict) -> list[str]:
    """The options in the defaults list of a file, which is removed from `node`, or the recipe that it extends."""
    found = []
    for entry in node.pop("defaults", []):
        if isinstance(entry, dict):
            found += [f"`{key.rpartition('/')[2].split()[-1]}={value}`" for key, value in entry.items()]
        elif entry != "_self_":
            found.append(f"the recipe `{entry.removeprefix('/recipe/').replace('/', '_')}`")
    return found


def words_of(node: dict) -> list[str]:
    return [
        f"`{key}={value}`".replace("|", "\\|") for key, value in flatten(node).items() if node and not key.endswith("_target_")
    ]


# --- measured -------------------------------------------------------------------------------------------------------------


def measured(at: Project, method: str) -> str:
    """The rows of all results pages that are about the method."""
    parts = []
    for page in sorted((at.root / "docs" / RESULTS).glob("*.md")):
        title = re.findall(r"^# (.*)", page.read_text(), re.M)[0]
        found = []
        for head, rows in tables(page.read_text()):
            own = [row for row in rows if re.match(rf"\| *`?{method}(?![\w])", row) and not re.search(r"\| *not run \|", row)]
            if own and head[0].split("|")[1].strip() in ("method", "row", "host"):
                found.append("\n".join([*head, *own]))
        parts += [f"From [{title}](../{RESULTS}/{page.name}):", *found] if found else []
    return "\n\n".join(parts) or "No row of the [measured results](../results/index.md) bears its name."


def tables(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yields the head (two lines) and the rows of each Markdown table in a text."""
    for found in re.findall(r"(?:^\|.*\n)+", text, re.M):
        lines = found.splitlines()
        yield lines[:2], lines[2:]
