"""Draws the figures of the report page as inline SVG: curves with bands, sparklines, heat maps, bars.

Colors are classes of page.css: c0 … c6 for lines, h0 … h9 for percentages; lines without a class are grey.
"""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

COLOURS, LEVELS = 7, 10
WIDE, NARROW, LEFT, TOP, BOTTOM = 760, 360, 30, 12, 34  # sizes of the figure of curves, in pixels
LINE, LETTER, LONGEST = 13.5, 6.4, 34  # of labels: height, width of a letter, largest number of letters


class Line(NamedTuple):
    """The curve of one configuration over its seeds."""

    label: str
    target: str  # the id of its details on the page
    colour: str  # a class, or empty
    means: Sequence[float]  # after each task, NaN where nothing was measured
    spreads: Sequence[float]  # standard deviations, NaN for one seed


def curves(lines: Sequence[Line], *, narrow: bool = False) -> str:
    """Accuracy in percent after each task, one labeled line per configuration; colored lines are drawn on top.

    `narrow`: for a phone, without labels; `legend` lists them.
    """
    tasks = max(len(line.means) for line in lines)
    known = [value for line in lines for value in line.means if math.isfinite(value)]
    bottom = min(90, 10 * math.floor(min(known) / 10))
    margin = 34 + LETTER * min(LONGEST, max(len(line.label) for line in lines))
    wide, high = (NARROW, 240.0) if narrow else (WIDE, max(300.0, LINE * len(lines) + 20))
    right = wide - (10 if narrow else margin)

    def x(task: int) -> float:
        return LEFT + (right - LEFT) * (task / (tasks - 1) if tasks > 1 else 0.5)

    def y(percent: float) -> float:
        return TOP + high * (100 - min(100.0, max(float(bottom), percent))) / (100 - bottom)

    ends = [max(n for n, value in enumerate(line.means) if math.isfinite(value)) for line in lines]
    places = apart([y(line.means[end]) for line, end in zip(lines, ends)], LINE, TOP, TOP + high)
    drawn = []
    for line, end, place in sorted(zip(lines, ends, places), key=lambda one: bool(one[0].colour)):
        tip = (x(end), y(line.means[end]))
        label = (
            f'<path class="lead" d="M{_at(*tip)}L{_at(right + 14, place)}"/><path d="M{_at(right + 14, place)}h10"/>'
            f'<text x="{_number(right + 28)}" y="{_number(place + 4)}">{escape(_short(line.label))}</text>'
        )
        drawn.append(
            f'<a href="#{escape(line.target)}" class="line {line.colour}">{_tooltip(line, end)}{_band(line, x, y)}'
            f"{'' if narrow else label}{_strokes(line, x, y)}"
            f'<circle cx="{_number(tip[0])}" cy="{_number(tip[1])}" r="2.6"/></a>'
        )
    kind = f'class="curves{" narrow" * narrow}" viewBox="0 0 {wide} {_number(TOP + high + BOTTOM)}"'
    about = f"Accuracy after each task, {len(lines)} configurations; the table has the numbers"
    return f'<svg {kind} role="group" aria-label="{about}">{_axes(tasks, bottom, x, y)}{"".join(drawn)}</svg>'


def legend(lines: Sequence[Line]) -> str:
    """The labels of a narrow figure, from the line that ends highest to the lowest."""
    ends = {line.target: [value for value in line.means if math.isfinite(value)][-1] for line in lines}
    items = "".join(
        f'<li class="{line.colour}"><a href="#{escape(line.target)}">{escape(line.label)}</a> {ends[line.target]:.1f}'
        for line in sorted(lines, key=lambda one: -ends[one.target])
    )
    return f'<ol class="legend">{items}</ol>'


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least `gap` apart, in the order of `wanted` and as close to it as possible (isotonic regression)."""
    order = sorted(range(len(wanted)), key=lambda n: wanted[n])
    blocks: list[list[float]] = []  # sum and number of the values (wanted − rank · gap) with one position
    for rank, n in enumerate(order):
        blocks.append([wanted[n] - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, many = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + many]
    shared = [total / many for total, many in blocks for _ in range(int(many))]
    most = max(low, high - gap * (len(wanted) - 1))
    places = [0.0] * len(wanted)
    for rank, n in enumerate(order):
        places[n] = min(max(shared[rank], low), most) + rank * gap
    return places


def spark(means: Sequence[float]) -> str:
    """A sparkline: the curve from 0 to 100 % in the height of a text line."""
    known = [(2 + 68 * n / max(1, len(means) - 1), 22 - 0.2 * value) for n, value in enumerate(means) if math.isfinite(value)]
    if not known:
        return ""
    line = "L".join(_at(*point) for point in known)
    last = f'<circle cx="{_number(known[-1][0])}" cy="{_number(known[-1][1])}" r="1.8"/>'
    return f'<svg class="spark" viewBox="0 0 72 24" aria-hidden="true"><path d="M{line}"/>{last}</svg>'


def heat(percent: np.ndarray, about: str, rules: Sequence[int] = ()) -> str:
    """A heat map of a matrix of percentages; NaN stays empty. One path per color, and lines before the rows of `rules`."""
    cells: dict[int, list[str]] = {}
    for after, on in zip(*np.nonzero(np.isfinite(percent))):
        cells.setdefault(level(percent[after, on]), []).append(f"M{on} {after}h1v1h-1z")
    paths = "".join(f'<path class="h{key}" d="{"".join(cells[key])}"/>' for key in sorted(cells))
    rows, columns = percent.shape
    lines = "".join(f'<path class="rule" d="M0 {n}H{columns}M{n} 0V{rows}"/>' for n in rules)
    size = f'viewBox="0 0 {columns} {rows}"' + ' preserveAspectRatio="none"' * (rows != columns)
    return f'<svg class="heat" {size} role="img" aria-label="{escape(about)}">{paths}{lines}</svg>'


def scale() -> str:
    """The colors of a heat map, in HTML."""
    cells = "".join(f'<i class="h{n}"></i>' for n in range(LEVELS))
    return f'<span class="scale">0 {cells} 100</span>'


def level(percent: float) -> int:
    return min(LEVELS - 1, max(0, int(percent * LEVELS / 100)))


def bar(mean: float, spread: float, low: float, high: float) -> str:
    """A bar from 0 to the mean on the scale `low` to `high`, which all bars share; the spread is a line."""
    width = (high - low) or 1.0

    def x(value: float) -> float:
        return 100 * (min(high, max(low, value)) - low) / width

    ends = sorted((x(0), x(mean)))
    drawn = f'<rect x="{_number(ends[0])}" y="2" width="{_number(ends[1] - ends[0])}" height="8"/>'
    if math.isfinite(spread):
        drawn += f'<path d="M{_number(x(mean - spread))} 6H{_number(x(mean + spread))}"/>'
    drawn += f'<path class="zero" d="M{_number(x(0))} 0V12"/>'
    return f'<svg viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'


def _axes(tasks: int, bottom: int, x, y) -> str:
    """Grid lines every 20 percent (10 on a short scale), and numbers of tasks (every fifth if there are more than 20)."""
    marks = range(bottom, 101, 20 if bottom < 50 and bottom % 20 == 0 else 10)
    shown = [task for task in range(tasks) if tasks <= 20 or task == 0 or (task + 1) % 5 == 0]
    across = "".join(f'<path class="rule" d="M{_at(LEFT, y(mark))}H{_number(x(tasks - 1))}"/>'
                     f'<text class="y" x="{LEFT - 6}" y="{_number(y(mark) + 4)}">{mark}</text>' for mark in marks)  # fmt: skip
    below = "".join(f'<text class="x" x="{_number(x(task))}" y="{_number(y(bottom) + 16)}">{task + 1}</text>' for task in shown)
    words = f'<text class="x" x="{_number((LEFT + x(tasks - 1)) / 2)}" y="{_number(y(bottom) + 31)}">tasks learned</text>'
    return across + below + words


def _tooltip(line: Line, end: int) -> str:
    spread = f" ± {line.spreads[end]:.1f}" if math.isfinite(line.spreads[end]) else ""
    return f"<title>{escape(line.label)}: {line.means[end]:.1f}{spread} % after task {end + 1}</title>"


def _strokes(line: Line, x, y) -> str:
    return "".join(f'<path d="M{"L".join(_at(x(n), y(line.means[n])) for n in run)}"/>' for run in _runs(line.means))


def _band(line: Line, x, y) -> str:
    """The band of ± one standard deviation; empty for one seed."""
    drawn = ""
    for run in _runs(line.spreads):
        upper = [_at(x(n), y(line.means[n] + line.spreads[n])) for n in run]
        lower = [_at(x(n), y(line.means[n] - line.spreads[n])) for n in reversed(run)]
        drawn += f'<path class="band" d="M{"L".join(upper + lower)}z"/>'
    return drawn


def _runs(values: Sequence[float]) -> Iterator[list[int]]:
    """Yields runs of two or more neighboring indices with finite values."""
    run: list[int] = []
    for n, value in enumerate([*values, math.nan]):
        if math.isfinite(value):
            run.append(n)
        else:
            if len(run) > 1:
                yield run
            run = []


def _short(label: str) -> str:
    """Shorten a label: keep its beginning and its end, where settings differ."""
    half = (LONGEST - 1) // 2
    return label if len(label) <= LONGEST else f"{label[:half]}…{label[-half:]}"


def _at(x: float, y: float) -> str:
    return f"{_number(x)} {_number(y)}"


def _number(value: float) -> str:
    return f"{value + 0.0:.1f}".removesuffix(".0")
