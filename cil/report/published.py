"""Loads published results from `published/`: one YAML file per table, each row with the command that reproduces it here.

The keys of a file are the fields of the classes below. A quantity is named as in `AccuracyMatrix.summary` and counted among
all classes, unless another count is given (`task_il.acc`). It may also be `after.N`, the mean accuracy over tasks after task
N, or `across.FIELD`, a transfer between datasets. A number is `value` or `[value, number printed after ±]`.
"""

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

import yaml

from cil.common.errors import UserError, nearest
from cil.metrics import COUNTS, DEFINITIONS
from cil.report import across

FOLDER = Path(__file__).with_suffix("")


@dataclass(frozen=True)
class Number:
    value: float
    spread: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.2f}" + (f" ± {self.spread:.2f}" if self.spread is not None else "")


@dataclass(frozen=True)
class Column:
    """One scenario or setting of a table. `run` holds the first arguments of its command; empty if it cannot be run here."""

    title: str
    run: list[str]
    quantities: dict[str, str]  # our name → the paper's name


@dataclass(frozen=True)
class Row:
    """One row of a table: either `run` holds its arguments after the column's, or `quoted` says why it cannot be run.

    A row may have a column without numbers: it is run, but there is nothing to compare with.
    """

    name: str
    numbers: dict[str, dict[str, Number]]
    run: list[str] | None = None
    quoted: str | None = None
    readings: tuple[str, ...] = ("paper",)
    memory: int | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    name: str
    paper: str
    table: str
    title: str
    seeds: list[int]
    columns: dict[str, Column]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def tables() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load(name: str) -> Table:
    """Read and check the table `published/NAME.yaml`."""
    if name not in tables():
        raise UserError(f"table {name} is not known; {nearest(name, tables())}")
    node = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    columns = {key: _made(Column, value, f"{name}: {key}") for key, value in node["columns"].items()}
    for key, column in columns.items():
        for quantity in column.quantities:
            if meaning(quantity) is None:
                raise UserError(f"{name}: {key}: {quantity} is not a quantity; {nearest(quantity, DEFINITIONS)}")
    rows = [_row(row, columns, f"{name}: {row.get('name')}") for row in node["rows"]]
    return _made(Table, {**node, "name": name, "columns": columns, "rows": rows}, name)


def meaning(quantity: str) -> str | None:
    """The definition of a quantity in words, with the classes among which predictions are counted; None if it has none."""
    count, _, key = quantity.rpartition(".")
    if count == "across":
        return across.DEFINITIONS.get(key)
    if re.fullmatch(r"after\.[1-9]\d*", quantity):
        return f"accuracy after task {key}, mean over the tasks so far, {COUNTS['class_il']}"
    return f"{DEFINITIONS[key]}, {COUNTS[count or 'class_il']}" if count in ("", *COUNTS) and key in DEFINITIONS else None


def _row(node: dict, columns: Mapping[str, Column], where: str) -> Row:
    numbers = {}
    for key, printed in node["numbers"].items():
        if key not in columns:
            raise UserError(f"{where}: there is no column {key}; {nearest(key, columns)}")
        for quantity in printed.keys() - columns[key].quantities.keys():
            raise UserError(f"{where}: column {key} has no {quantity}; {nearest(quantity, columns[key].quantities)}")
        pairs = {quantity: value if isinstance(value, list) else [value] for quantity, value in printed.items()}
        numbers[key] = {quantity: Number(*map(float, pair)) for quantity, pair in pairs.items()}
    readings = {"both": ("paper", "released"), "paper": ("paper",)}[node.get("readings", "paper")]
    row = _made(Row, {**node, "numbers": numbers, "readings": readings}, where)
    if (row.run is None) == (row.quoted is None):
        raise UserError(f"{where}: a row needs either run or quoted, not both")
    return row


def _made(kind: type, node: dict, where: str):
    """Build the dataclass; raise a UserError for a key that is missing or unknown."""
    own = {one.name: one for one in fields(kind)}
    for key in node.keys() - own.keys():
        raise UserError(f"{where}: there is no key {key}; {nearest(key, own)}")
    for key, one in own.items():
        if key not in node and one.default is MISSING and one.default_factory is MISSING:
            raise UserError(f"{where}: {key} is missing")
    return kind(**node)
