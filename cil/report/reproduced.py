"""Compares a published table with our runs: for each row the printed numbers, ours, and the difference.

The comparison is written as text for a terminal, Markdown, LaTeX (booktabs) or CSV.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from textwrap import fill
from typing import NamedTuple

from cil.common.tables import fitted, grid
from cil.report.collect import apart
from cil.report.numbers import Numbers, over
from cil.report.published import Number, Table

PRINTED, QUOTED, APART = "printed", "quoted", "difference"
OURS = {"paper": "ours", "released": "ours (released)"}
SIDE_BY_SIDE = 3  # quantities that fit into 80 columns
NOT_RUN = "not run"


class Line(NamedTuple):
    """One line of the comparison for one column of the table."""

    row: str
    what: str  # PRINTED, QUOTED, one of OURS, or APART
    values: list[Number | None]
    seeds: int | None = None  # number of seeds of a line of ours; 0: not run


Runs = Mapping[tuple[str, int, str], Sequence[dict]]  # (column, index of the row, reading) → summaries of finished runs
Parts = Mapping[str, Sequence[Line]]  # by column


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


# --- as text -----------------------------------------------------------------------------------------------------------


def cell(line: Line, value: Number | None) -> str:
    if value is None:
        return NOT_RUN if line.seeds == 0 else "–"
    return f"{value.value:+.2f}" if line.what == APART else str(value)


def _cells(line: Line) -> list[str]:
    return [line.row, line.what, *(cell(line, value) for value in line.values), "" if line.seeds is None else str(line.seeds)]


def _once(rows: Sequence[list[str]]) -> list[list[str]]:
    """Blank the name of a row in all its lines but the first."""
    return [
        [row[0] if n == 0 else "", *row[1:]]
        for _, group in groupby(rows, key=lambda row: row[0])
        for n, row in enumerate(group)
    ]


def text(table: Table, parts: Parts, *, markdown: bool = False) -> str:
    """The table as text or Markdown. Text is split into several tables below each other if it is wider than 80 columns."""
    parts_of_text = [heading(table) if markdown else fill(heading(table), 80)]
    for key, lines in parts.items():
        names, rows = [*table.columns[key].quantities.values()], _once([_cells(line) for line in lines])
        step = len(names) if markdown else SIDE_BY_SIDE
        parts_of_text.append(f"{table.columns[key].title}:")
        for first in range(0, len(names), step):
            chosen = [0, 1, *range(2 + first, 2 + min(first + step, len(names))), 2 + len(names)]
            head = ["row", "", *names, "seeds"]
            cells, titles = [[row[n] for n in chosen] for row in rows], ["  ".join(filter(None, row[:2])) for row in rows]
            parts_of_text.append(fitted([head[n] for n in chosen], cells, titles, 2, markdown=markdown))
    listed = [f"- {note}" if markdown else fill(note, 80, subsequent_indent="  ") for note in notes(table)]
    return "\n\n".join([*parts_of_text, "\n".join(listed)]).rstrip()


def compact(table: Table, parts: Parts, beside: Mapping[str, Sequence[str]]) -> str:
    """Markdown of a table without published numbers: one line per row and reading. `beside`: head → one more cell per row."""
    grids = []
    for key, lines in parts.items():
        head = ["method", *table.columns[key].quantities.values(), *beside, "seeds"]
        rows = []
        for n, line in enumerate(lines):
            name, _, *numbers, seeds = _cells(line)
            several = sum(other.row == line.row for other in lines) > 1
            reading = " (released)" if line.what == OURS["released"] else " (paper)" if several else ""
            rows.append([f"`{name}`{reading}", *numbers, *(cells[n] for cells in beside.values()), seeds])
        rows.sort(key=lambda row: row[1] == NOT_RUN or float(row[1].split()[0]))
        grids.append(grid(head, rows, markdown=True))
    return "\n\n".join(grids)


def latex(table: Table, parts: Parts) -> str:
    output = [f"% {heading(table)}"]
    for key, lines in parts.items():
        names = [_tex(name) for name in table.columns[key].quantities.values()]
        output += [f"% {table.columns[key].title}", rf"\begin{{tabular}}{{ll{'r' * len(names)}r}}", r"\toprule",
                 " & ".join(["", "", *names, "seeds"]) + r" \\", r"\midrule"]  # fmt: skip
        output += [" & ".join(map(_tex, row)) + r" \\" for row in _once([_cells(line) for line in lines])]
        output += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*output, *(f"% {note}" for note in notes(table))])


def _tex(words: str) -> str:
    words = words.replace("\\", r"\textbackslash ")
    for sign in "&%$#_{}":
        words = words.replace(sign, f"\\{sign}")
    return words.replace("±", r"$\pm$").replace("–", "--").replace("+", "$+$").replace("^", r"\^{}").replace("~", r"\~{}")


def sheet(table: Table, parts: Parts) -> str:
    """CSV with one line per number."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["table", "column", "row", "what", "quantity", "value", "spread", "seeds"])
    for key, lines in parts.items():
        for line in lines:
            for quantity, value in zip(table.columns[key].quantities, line.values, strict=True):
                both = (value.value, value.spread) if value else (None, None)
                digits = [None if one is None else f"{one:.4f}" for one in both]
                rows.writerow([table.name, key, line.row, line.what, quantity, *digits, line.seeds])  # None: an empty cell
    return file.getvalue().rstrip("\n")


def heading(table: Table) -> str:
    return f"{table.paper}, {table.table}: {table.title}"


def notes(table: Table) -> list[str]:
    """Notes on the table and its rows, and the reasons why rows are quoted and not run."""
    quoted = [f"{row.name} is quoted: {row.quoted}" for row in table.rows if row.quoted]
    return [*table.notes, *(f"{row.name}: {note}" for row in table.rows for note in row.notes), *dict.fromkeys(quoted)]


LANGUAGES = {"text": text, "markdown": lambda *given: text(*given, markdown=True), "latex": latex, "csv": sheet}
