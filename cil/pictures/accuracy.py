"""Plots accuracies: curves over tasks, matrices, and sweeps over the values of a setting."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from cil.common.files import replace_file
from cil.metrics import AccuracyMatrix

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#4a5568", "#b7791f", "#285e61")


def figure(width: float, height: float):
    """A figure that is only saved to files. Importing matplotlib here keeps the start of a run fast."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def save(drawing, file: Path) -> None:
    """Save as PNG or SVG, chosen by the file name; the same drawing gives the same bytes."""
    import matplotlib

    kind = file.suffix[1:]
    with replace_file(file) as temporary, matplotlib.rc_context({"svg.hashsalt": file.name, "image.composite_image": False}):
        drawing.savefig(temporary, format=kind, metadata={"Date": None} if kind == "svg" else None)


def draw_curve(file: Path, curves: Mapping[str, Sequence[float]], title: str) -> None:
    """Plot the mean accuracy over the tasks seen, after each task: one curve for each name in `curves`."""
    drawing = figure(6, 3.6)
    axes = drawing.add_subplot()
    _plot(axes, curves)
    axes.set(title=title, ylabel="percent correct", ylim=(0, 102))
    axes.title.set_fontsize("medium")
    save(drawing, file)


def draw_accuracy_and_forgetting(
    file: Path, accuracy: Mapping[str, Sequence[float]], forgetting: Mapping[str, Sequence[float]], title: str
) -> None:
    """Plot the mean accuracy after each task, and beside it the mean forgetting.

    Every second curve is dashed, so that the one before it can be seen beneath.
    """
    drawing = figure(9, 3.6)
    both = drawing.subplots(1, 2)
    for axes, curves, about in zip(
        both, (accuracy, forgetting), ("percent correct, all classes seen", "forgetting"), strict=True
    ):
        _plot(axes, curves, styles=("-", "--"))
        axes.set(ylabel=about, ylim=(0, None))
    drawing.suptitle(title, fontsize="medium")
    save(drawing, file)


def _plot(axes, curves: Mapping[str, Sequence[float]], styles: Sequence[str] = ("-",)) -> None:
    for colour, style, (label, values) in zip(COLOURS, cycle(styles), curves.items(), strict=False):
        axes.plot(range(1, len(values) + 1), values, style, marker="o", markersize=4, color=colour, label=label)
    axes.set(xlabel="tasks learned", xticks=range(1, max(map(len, curves.values())) + 1))
    plain(axes)
    axes.legend(frameon=False, loc="best", fontsize="small")


def plain(axes) -> None:
    """A light grid, and a frame only at the left and below."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw_band(axes, places: Sequence[float], numbers: Sequence[Sequence[float]], name: str, colour: str, size: float) -> None:
    """Plot the mean over seeds at each place, and a band of ± one standard deviation."""
    means = np.array([np.mean(seeds) for seeds in numbers])
    spread = np.array([np.std(seeds, ddof=1) if len(seeds) > 1 else 0.0 for seeds in numbers])
    axes.plot(places, means, marker="o", markersize=size, color=colour, label=name)
    axes.fill_between(places, means - spread, means + spread, color=colour, alpha=0.18, linewidth=0)


def draw_sweep(file: Path, setting: str, values: Sequence[float], panels: Mapping, levels: Mapping[str, float]) -> None:
    """Draw metrics against the value of a setting: one panel per unit, one above the other.

    `panels`: unit → name of a line → for each value, one number per seed. `levels`: named values, drawn as dashed lines in the
    first panel.
    """
    drawing = figure(6.4, 2.1 + 1.7 * len(panels))
    rows = drawing.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=[1.9, *[1] * (len(panels) - 1)])[:, 0]
    for axes, (unit, lines) in zip(rows, panels.items()):
        for colour, (name, numbers) in zip(COLOURS, lines.items()):
            draw_band(axes, values, numbers, name, colour, 4)
        axes.set_ylabel(unit)
        axes.legend(frameon=False, fontsize="small", loc="best")
        plain(axes)
    for name, level in levels.items():
        rows[0].axhline(level, color="#4a5568", linewidth=0.9, linestyle=(0, (4, 3)))
        rows[0].annotate(name, (1, level), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                         fontsize="small", va="center", color="#4a5568", annotation_clip=False)  # fmt: skip
    rows[-1].set_xlabel(setting)
    rows[-1].set_xticks(values)
    save(drawing, file)


def draw_matrix(file: Path, matrix: AccuracyMatrix, title: str) -> None:
    """Draw R[t, i], the accuracy on task i after learning task t: one row per task learned, one column per task tested."""
    percent, tasks = matrix.percent, len(matrix.totals)
    side = max(3.6, 0.45 * tasks + 1.4)
    drawing = figure(side + 0.8, side)
    axes = drawing.add_subplot()
    image = axes.imshow(percent, vmin=0, vmax=100, cmap="viridis")
    for after, on in zip(*np.nonzero(np.isfinite(percent)), strict=True):
        colour = "black" if percent[after, on] > 60 else "white"
        axes.text(on, after, f"{percent[after, on]:.0f}", ha="center", va="center", color=colour, fontsize=7)
    ticks, labels = range(tasks), range(1, tasks + 1)
    axes.set(title=title, xlabel="tested on task", ylabel="after task")
    axes.title.set_fontsize("medium")
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    axes.spines[:].set_visible(False)
    drawing.colorbar(image, ax=axes, shrink=0.8)
    save(drawing, file)
