"""A reproduced table as text for a terminal, Markdown, LaTeX (booktabs) and CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from textwrap import fill

from cil.common.tables import grid
from cil.report.published import Number, Table
from cil.report.reproduced import APART, OURS, Line

Parts = Mapping[str, Sequence[Line]]  # by column
ROOM = 3  # quantities side by side in 80 columns
NOT_RUN = "not run"


def cell(line: Line, value: Number | None) -> str:
    if value is None:
        return NOT_RUN if line.seeds == 0 else "–"
    sign = "+" if line.what == APART else ""
    return f"{value.value:{sign}.2f}" + (f" ± {value.spread:.2f}" if value.spread is not None else "")


def _cells(line: Line) -> list[str]:
    return [line.row, line.what, *(cell(line, value) for value in line.values), "" if line.seeds is None else str(line.seeds)]


def _once(rows: Sequence[list[str]]) -> list[list[str]]:
    """The name of a row stands in its first line alone."""
    return [
        [row[0] if n == 0 else "", *row[1:]]
        for _, group in groupby(rows, key=lambda row: row[0])
        for n, row in enumerate(group)
    ]


def text(table: Table, parts: Parts, *, markdown: bool = False) -> str:
    """On a terminal, where 80 columns do not hold all numbers, those that are left come below."""
    told = [heading(table)]
    for key, lines in parts.items():
        names, rows = [*table.columns[key].quantities.values()], _once([_cells(line) for line in lines])
        room = len(names) if markdown else ROOM
        told.append(f"{table.columns[key].title}:")
        for first in range(0, len(names), room):
            chosen = [0, 1, *range(2 + first, 2 + min(first + room, len(names))), 2 + len(names)]
            head = ["row", "", *names, "seeds"]
            told.append(grid([head[n] for n in chosen], [[row[n] for n in chosen] for row in rows], markdown=markdown))
    listed = [f"- {note}" if markdown else fill(note, 80, subsequent_indent="  ") for note in notes(table)]
    return "\n\n".join([*told, "\n".join(listed)]).rstrip()


def compact(table: Table, parts: Parts, beside: Mapping[str, Sequence[str]]) -> str:
    """Markdown of a table that nobody printed: a line a row and reading. `beside`: more cells of a row, by its head."""
    told = []
    for key, lines in parts.items():
        head = ["method", *table.columns[key].quantities.values(), *beside, "seeds"]
        rows = []
        for n, line in enumerate(lines):
            name, _, *numbers, seeds = _cells(line)
            several = sum(other.row == line.row for other in lines) > 1
            reading = " (released)" if line.what == OURS["released"] else " (paper)" if several else ""
            rows.append([f"`{name}`{reading}", *numbers, *(cells[n] for cells in beside.values()), seeds])
        rows.sort(key=lambda row: row[1] == NOT_RUN or float(row[1].split()[0]))
        told.append(grid(head, rows, markdown=True))
    return "\n\n".join(told)


def latex(table: Table, parts: Parts) -> str:
    told = [f"% {heading(table)}"]
    for key, lines in parts.items():
        names = [_tex(name) for name in table.columns[key].quantities.values()]
        told += [f"% {table.columns[key].title}", rf"\begin{{tabular}}{{ll{'r' * len(names)}r}}", r"\toprule",
                 " & ".join(["", "", *names, "seeds"]) + r" \\", r"\midrule"]  # fmt: skip
        told += [" & ".join(map(_tex, row)) + r" \\" for row in _once([_cells(line) for line in lines])]
        told += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*told, *(f"% {note}" for note in notes(table))])


def _tex(words: str) -> str:
    words = words.replace("\\", r"\textbackslash ")
    for sign in "&%$#_{}":
        words = words.replace(sign, f"\\{sign}")
    return words.replace("±", r"$\pm$").replace("–", "--").replace("+", "$+$").replace("^", r"\^{}").replace("~", r"\~{}")


def sheet(table: Table, parts: Parts) -> str:
    """CSV, a line a number."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["table", "column", "row", "what", "quantity", "value", "spread", "seeds"])
    for key, lines in parts.items():
        for line in lines:
            for quantity, value in zip(table.columns[key].quantities, line.values, strict=True):
                number = (
                    ["", ""] if value is None else [f"{value.value:.4f}", "" if value.spread is None else f"{value.spread:.4f}"]
                )
                rows.writerow(
                    [table.name, key, line.row, line.what, quantity, *number, "" if line.seeds is None else line.seeds]
                )
    return file.getvalue().rstrip("\n")


def heading(table: Table) -> str:
    return f"{table.paper}, {table.table}: {table.title}"


def notes(table: Table) -> list[str]:
    """What one must know of the table, of its rows, and why rows are quoted alone."""
    quoted = [f"{row.name} is quoted: {row.quoted}" for row in table.rows if row.quoted]
    return [*table.notes, *(f"{row.name}: {note}" for row in table.rows for note in row.notes), *dict.fromkeys(quoted)]


LANGUAGES = {"text": text, "markdown": lambda *given: text(*given, markdown=True), "latex": latex, "csv": sheet}
