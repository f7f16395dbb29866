"""Compares a published table with our runs: for each row the printed numbers, ours, and the difference."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cil.report.collect import apart
from cil.report.numbers import Numbers, over
from cil.report.published import Number, Table

PRINTED, QUOTED, APART = "printed", "quoted", "difference"
OURS = {"paper": "ours", "released": "ours (released)"}


class Line(NamedTuple):
    """One line of the comparison for one column of the table."""

    row: str
    what: str  # PRINTED, QUOTED, one of OURS, or APART
    values: list[Number | None]
    seeds: int | None = None  # number of seeds of a line of ours; 0: not run


Runs = Mapping[tuple[str, int, str], Sequence[dict]]  # (column, index of the row, reading) → summaries of finished runs


def lines(table: Table, key: str, runs: Runs, numbers: Numbers) -> list[Line]:
    """The lines of one column: for each row the printed numbers, ours in each reading, and ours (paper) minus printed."""
    found = []
    for place, row in enumerate(table.rows):
        if key not in row.numbers:
            continue
        name = f"{row.name}, {row.memory}" if row.memory else row.name
        printed = [row.numbers[key].get(quantity) for quantity in table.columns[key].quantities]
        if any(printed):
            found.append(Line(name, PRINTED if row.run is not None else QUOTED, printed))
        for reading in row.readings if row.run is not None else ():
            asked = row.numbers[key] or table.columns[key].quantities  # what the row prints; everything if it prints nothing
            for words, group in apart(runs.get((key, place, reading), ())) or [("", [])]:
                values = [
                    over([numbers.of(run, q) for run in group]) if q in asked else None for q in table.columns[key].quantities
                ]
                title = f"{name}, {words}" if words else name
                found.append(Line(title, OURS[reading], values, len(group)))
                if reading == "paper" and any(difference := [minus(*pair) for pair in zip(values, printed)]):
                    found.append(Line(title, APART, difference))
    return found


def minus(ours: Number | None, theirs: Number | None) -> Number | None:
    return Number(ours.value - theirs.value) if ours and theirs else None
