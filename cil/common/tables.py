"""Tables for a terminal of 80 columns and for Markdown."""

import math
from collections.abc import Sequence
from pathlib import Path

from cil.common.files import write_text
from cil.metrics import AccuracyMatrix


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """Return a table as text. The first column is aligned left, the others right."""
    widths = [max(len(str(row[column])) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [str(c).ljust(w) if n == 0 else str(c).rjust(w) for n, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip()

    dashes = (
        ["-" * w if n == 0 else "-" * (w - 1) + ":" for n, w in enumerate(widths)] if markdown else ["─" * w for w in widths]
    )
    return "\n".join([line(head), line(dashes), *map(line, rows)])


def number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def mean_and_spread(values: Sequence[float], digits: int = 1) -> str:
    """Return "mean ± sample standard deviation" (divisor n − 1) as text, or the number alone if there is only one."""
    known = [v for v in values if v is not None and not math.isnan(v)]
    if not known:
        return "–"
    mean = sum(known) / len(known)
    if len(known) == 1:
        return number(mean, digits)
    spread = math.sqrt(sum((v - mean) ** 2 for v in known) / (len(known) - 1))
    return f"{mean:.{digits}f} ± {spread:.{digits}f}"


def matrix_text(matrix: AccuracyMatrix) -> str:
    """Return the accuracy matrix as text of at most 80 columns, with one decimal up to 10 tasks and none up to 20."""
    tasks, percent = len(matrix.totals), matrix.percent
    digits, width = (1, 6) if tasks <= 10 else (0, 4) if tasks <= 18 else (0, 3)
    lines = [["after", *(str(task + 1) for task in range(tasks)), "mean"]]
    for t in range(matrix.learned):
        if not math.isnan(percent[t, 0]):
            row = [number(percent[t, i], digits) if i <= t else "" for i in range(tasks)]
            lines.append([str(t + 1), *row, number(matrix.after(t), digits)])
    title = "percent correct on each task (columns) after each task (rows)"
    joined = (f"{line[0]:>5}" + "".join(f"{cell:>{width}}" for cell in line[1:-1]) + f"{line[-1]:>7}" for line in lines)
    return "\n".join([title, *joined])


def one_line(summary: dict) -> str:
    """Return the main metrics of a summary in one line. `definitions` of the summary says how each is computed."""
    got, own = summary["class_il"], summary["task_il"]
    parts = [f"ACC {number(got['acc'])}", f"forgetting {number(got['forgetting'])}", f"BT {number(got['backward_transfer'])}"]
    parts += [f"avg inc {number(got['incremental_average'])}", f"task-IL ACC {number(own['acc'])}"]
    if leaky := summary.get("leaky_il"):
        parts.append(f"ACC of the leaky evaluation {number(leaky['acc'])}")
    return " · ".join(parts)


def fill(page: Path, block: str, content: str) -> None:
    """Replace the text between the markers `<!-- block -->` and `<!-- /block -->` of a page by `content`."""
    before, opening, rest = page.read_text().partition(f"<!-- {block} -->")
    _, closing, after = rest.partition(f"<!-- /{block} -->")
    if not opening or not closing:
        raise ValueError(f"{page} has no block {block}")
    write_text(page, f"{before}{opening}\n{content}\n{closing}{after}")
