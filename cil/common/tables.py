"""Tables for a terminal of 80 columns and for Markdown."""

import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from cil.common.files import write_text
from cil.metrics import AccuracyMatrix

WIDTH = 80  # of a terminal


def fitted(
    head: Sequence[str], rows: Sequence[Sequence[str]], titles: Sequence[str], named: int, *, markdown: bool = False
) -> str:
    """Return a table as text that fits a terminal, or as Markdown.

    If it is too wide, gaps are narrower. If that is not enough, the title of each row stands above its numbers, in place of
    its first `named` cells, and columns that still do not fit are a further table.
    """
    if markdown:
        return grid(head, rows, markdown=True)
    short = [[cell.replace(" ± ", "±") for cell in row] for row in rows]
    for lines, gap in ((rows, "  "), (short, "  "), (short, " ")):
        if _width(text := grid(head, lines, gap=gap)) <= WIDTH:
            return text
    columns = [grid(["", name], [["", row[number]] for row in short], gap=" ") for number, name in enumerate(head)]
    parts, first = [], named
    while first < len(head):
        last, width = first, 0
        while last < len(head) and (width := width + _width(columns[last])) <= WIDTH:
            last += 1
        last = max(last, first + 1)
        cells = [["", *row[first:last]] for row in short]
        wide = grid(["", *head[first:last]], cells)
        text = wide if _width(wide) <= WIDTH else grid(["", *head[first:last]], cells, gap=" ")
        head_line, dashes, *lines = text.splitlines()
        parts.append("\n".join([head_line, dashes, *(f"{wrapped(title)}\n{line}" for title, line in zip(titles, lines))]))
        first = last
    return "\n\n".join(parts)


def wrapped(title: str) -> str:
    return textwrap.fill(title, WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def rounded(words: Iterable[str]) -> dict[str, str]:
    """For each word `key=value`, what is shown of it: a long float, as a search draws it, has four significant digits.

    Words that would then be equal to another are shown as they are.
    """
    short = {}
    for word in words:
        key, _, value = word.rpartition("=")
        brief = f"{key}={float(value):.4g}" if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", value) else word
        short[word] = min(brief, word, key=len)
    uses = Counter(short.values())
    return {word: brief if uses[brief] == 1 else word for word, brief in short.items()}


def shortened(text: str, width: int) -> str:
    """The text without its middle if it is longer than `width`."""
    left = (width - 1) // 2
    return text if len(text) <= width else f"{text[:left]}…{text[len(text) - (width - 1 - left) :]}"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool = False, gap: str = "  ") -> str:
    """Return a table as text. The first column is aligned left, the others right."""
    widths = [max(len(str(row[column])) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [str(c).ljust(w) if n == 0 else str(c).rjust(w) for n, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |" if markdown else gap.join(padded).rstrip()

    dashes = (
        ["-" * w if n == 0 else "-" * (w - 1) + ":" for n, w in enumerate(widths)] if markdown else ["─" * w for w in widths]
    )
    return "\n".join([line(head), line(dashes), *map(line, rows)])


def number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def plural(many: int, thing: str) -> str:
    return f"{many} {thing}{'s' * (many != 1)}"


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
