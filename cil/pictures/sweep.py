"""Plots metrics against the value of a setting, as mean and standard deviation over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cil.pictures.accuracy import COLOURS, figure, save

Lines = Mapping[str, Sequence[Sequence[float]]]  # name → for each value of the setting, one number per seed


def draw_sweep(
    file: Path, setting: str, values: Sequence[float], panels: Mapping[str, Lines], levels: Mapping[str, float]
) -> None:
    """Draw one panel per unit, one above the other. `levels`: named values, drawn as dashed lines in the first panel."""
    drawing = figure(6.4, 2.1 + 1.7 * len(panels))
    rows = drawing.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=[1.9, *[1] * (len(panels) - 1)])[:, 0]
    for axes, (unit, lines) in zip(rows, panels.items()):
        for colour, (name, numbers) in zip(COLOURS, lines.items()):
            means = np.array([np.mean(seeds) for seeds in numbers])
            spread = np.array([np.std(seeds, ddof=1) if len(seeds) > 1 else 0.0 for seeds in numbers])
            axes.plot(values, means, marker="o", markersize=4, color=colour, label=name)
            axes.fill_between(values, means - spread, means + spread, color=colour, alpha=0.18, linewidth=0)
        axes.set_ylabel(unit)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for name, level in levels.items():
        rows[0].axhline(level, color="#4a5568", linewidth=0.9, linestyle=(0, (4, 3)))
        rows[0].annotate(name, (1, level), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                         fontsize="small", va="center", color="#4a5568", annotation_clip=False)  # fmt: skip
    for axes in rows:
        axes.legend(frameon=False, fontsize="small", loc="best")
    rows[-1].set_xlabel(setting)
    rows[-1].set_xticks(values)
    save(drawing, file)
