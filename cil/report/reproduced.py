"""A published table beside what runs gave: each row as it is printed, as it came out here, and the difference."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cil.report.numbers import Numbers, over
from cil.report.published import Number, Table

PRINTED, QUOTED, APART = "printed", "quoted", "difference"
OURS = {"paper": "ours", "released": "ours (released)"}


class Line(NamedTuple):
    """One line of a column's part of the table."""

    row: str
    what: str  # PRINTED, QUOTED, one of OURS, or APART
    values: list[Number | None]
    seeds: int | None = None  # that it is over, where it is ours; 0: not run


Runs = Mapping[tuple[str, int, str], Sequence[dict]]  # column, row's number, reading: summaries of what is finished


def lines(table: Table, key: str, runs: Runs, numbers: Numbers) -> list[Line]:
    """A column's part: of each row what is printed, ours in each reading, and how far the first reading is from print."""
    found = []
    for place, row in enumerate(table.rows):
        if key not in row.numbers:
            continue
        name = f"{row.name}, {row.memory}" if row.memory else row.name
        printed = [row.numbers[key].get(quantity) for quantity in table.columns[key].quantities]
        if any(printed):
            found.append(Line(name, PRINTED if row.run is not None else QUOTED, printed))
        for reading in row.readings if row.run is not None else ():
            group = runs.get((key, place, reading), ())
            asked = row.numbers[key] or table.columns[key].quantities  # what the row prints; all where it prints nothing
            values = [
                over([numbers.of(run, q) for run in group]) if q in asked else None for q in table.columns[key].quantities
            ]
            found.append(Line(name, OURS[reading], values, len(group)))
            if reading == "paper" and any(apart := [minus(*pair) for pair in zip(values, printed)]):
                found.append(Line(name, APART, apart))
    return found


def minus(ours: Number | None, theirs: Number | None) -> Number | None:
    return Number(ours.value - theirs.value) if ours and theirs else None
