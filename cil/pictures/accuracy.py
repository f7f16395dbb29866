"""Plots accuracy curves and accuracy matrices."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cil.common.files import replace_file
from cil.metrics import NAN, AccuracyMatrix

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


def draw_curve(file: Path, matrices: Mapping[str, AccuracyMatrix], title: str) -> None:
    """Plot the mean accuracy over the tasks seen, after each task: one curve for each name in `matrices`."""
    drawing = figure(6, 3.6)
    axes = drawing.add_subplot()
    _curves(axes, {name: [matrix.after(task) for task in range(matrix.learned)] for name, matrix in matrices.items()})
    axes.set(title=title, ylabel="percent correct", ylim=(0, 102))
    axes.title.set_fontsize("medium")
    save(drawing, file)


def draw_accuracy_and_forgetting(file: Path, matrices: Mapping[str, AccuracyMatrix], title: str) -> None:
    """Plot the mean accuracy after each task, and beside it the mean forgetting of the earlier tasks."""
    drawing = figure(9, 3.6)
    accuracy, forgetting = drawing.subplots(1, 2)
    _curves(accuracy, {name: [matrix.after(task) for task in range(matrix.learned)] for name, matrix in matrices.items()})
    accuracy.set(ylabel="percent correct, all classes seen", ylim=(0, None))
    _curves(forgetting, {name: _forgetting(matrix) for name, matrix in matrices.items()})
    forgetting.set(ylabel="forgetting", ylim=(0, None))
    drawing.suptitle(title, fontsize="medium")
    save(drawing, file)


def _forgetting(matrix: AccuracyMatrix) -> list[float]:
    """Forgetting after each task; nothing can be forgotten after the first."""
    rows = matrix.percent.tolist()
    triangle = [row[: task + 1] for task, row in enumerate(rows)]
    return [NAN, *(AccuracyMatrix.of_percents(triangle[: task + 1]).forgetting() for task in range(1, matrix.learned))]


def _curves(axes, curves: Mapping[str, Sequence[float]]) -> None:
    for colour, (label, values) in zip(COLOURS, curves.items(), strict=False):
        style = "--" if " with " in label else "-"  # drawn over the same method without, so that both can be seen
        axes.plot(range(1, len(values) + 1), values, style, marker="o", markersize=4, color=colour, label=label)
    axes.set(xlabel="tasks learned", xticks=range(1, max(map(len, curves.values())) + 1))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best", fontsize="small")


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
