"""A published table beside what runs gave: each row as it is printed, as it came out here, and the difference."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from cil.metrics import AccuracyMatrix
from cil.mistakes import Mistake
from cil.report.across import across, counterpart
from cil.report.published import Number, Table
from cil.rundir import read_matrices

PRINTED, QUOTED, APART = "printed", "quoted", "difference"
OURS = {"paper": "ours", "released": "ours (released)"}


class Line(NamedTuple):
    """One line of a column's part of the table."""

    row: str
    what: str  # PRINTED, QUOTED, one of OURS, or APART
    values: list[Number | None]
    seeds: int | None = None  # that it is over, where it is ours; 0: not run


Runs = Mapping[tuple[str, int, str], Sequence[dict]]  # column, row's number, reading: summaries of what is finished


class Numbers:
    """What a run's folder says of a quantity, read no more often than needed."""

    def __init__(self, outputs: Path, every: Sequence[dict]) -> None:
        self.outputs, self.by_address = outputs, {summary["address"]: summary for summary in every}
        self._matrices: dict[str, AccuracyMatrix] = {}

    def of(self, run: dict, quantity: str) -> float | None:
        count, _, key = quantity.rpartition(".")
        if count == "across":
            return self._across(run, key)
        if count == "after":
            return self._after(run, int(key))
        value = run.get(count or "class_il", {}).get(key)
        return None if value is None else float(value)

    def _after(self, run: dict, task: int) -> float | None:
        address = run["address"]
        if address not in self._matrices:
            self._matrices[address] = read_matrices(self.outputs / address)["class_il"]
        matrix = self._matrices[address]
        value = matrix.after(task - 1) if task <= matrix.learned else math.nan
        return value if math.isfinite(value) else None

    def _across(self, both: dict, key: str) -> float | None:
        try:
            second = counterpart(both, "second", self.by_address)
            early = None if both["class_il"]["forgetting"] is not None else counterpart(both, "first", self.by_address)
        except Mistake:
            return None  # that run is not finished
        return getattr(across(self.outputs, both, second, early)["own"], key)


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


def over(values: Sequence[float | None]) -> Number | None:
    known = [value for value in values if value is not None]
    return Number(fmean(known), stdev(known) if len(known) > 1 else None) if known else None
