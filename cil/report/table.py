"""Tables for a terminal of 80 columns and for Markdown."""

import math
from collections.abc import Sequence

from cil.metrics import AccuracyMatrix


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """First column to the left, the others to the right."""
    widths = [max(len(str(row[column])) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [str(c).ljust(w) if n == 0 else str(c).rjust(w) for n, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip()

    dashes = ["-" * w if n == 0 else "-" * (w - 1) + ":" for n, w in enumerate(widths)] if markdown else ["─" * w for w in widths]
    return "\n".join([line(head), line(dashes), *map(line, rows)])


def number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def mean_and_spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation over runs (n − 1), or the one number."""
    known = [v for v in values if v is not None and not math.isnan(v)]
    if not known:
        return "–"
    mean = sum(known) / len(known)
    if len(known) == 1:
        return number(mean, digits)
    spread = math.sqrt(sum((v - mean) ** 2 for v in known) / (len(known) - 1))
    return f"{mean:.{digits}f} ± {spread:.{digits}f}"


def matrix_text(matrix: AccuracyMatrix) -> str:
    """The accuracy matrix, whole percents when there are many tasks, so that 20 of them fit a terminal."""
    tasks = len(matrix.totals)
    digits, percent = (1 if tasks <= 10 else 0), matrix.percent
    head = ["after task", *(str(task + 1) for task in range(tasks)), "mean"]
    rows = [
        [str(t + 1), *(number(percent[t, i], digits) if i <= t else "" for i in range(tasks)), number(matrix.after(t), digits)]
        for t in range(matrix.learned)
    ]
    if tasks > 10:  # three columns a task: 10 + 20 × 4 would pass the edge
        head[0] = "task"
        width = 3
        lines = ["".join([c.rjust(width + 1 if n in (0, len(head) - 1) else width) for n, c in enumerate(row)]) for row in (head, *rows)]
        return "\n".join(["percent correct on each task (columns) after each task (rows)", *lines])
    return "percent correct on each task (columns) after each task (rows)\n" + grid(head, rows)


def one_line(summary: dict) -> str:
    """The numbers that a paper would print, each with its meaning in `definitions`."""
    got, own = summary["class_il"], summary["task_il"]
    parts = [f"ACC {number(got['acc'])}", f"forgetting {number(got['forgetting'])}", f"BT {number(got['backward_transfer'])}"]
    parts += [f"average incremental {number(got['incremental_average'])}", f"task-IL ACC {number(own['acc'])}"]
    return " · ".join(parts)
