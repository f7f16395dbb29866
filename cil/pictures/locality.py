"""Plots how far patches attend: curves over the tasks, and attention maps of one image (LPA, ICME 2023)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cil.pictures.accuracy import COLOURS, draw_band, figure, plain, save
from cil.pictures.prompts import shown

CELL = 1.15  # inches


def draw_nonlocality(file: Path, panels: Mapping[str, Mapping[str, Sequence]], uniform: float) -> None:
    """Plot the mean attention distance over the tasks: one column per panel, one row per block and one for their mean.

    `panels`: title → name of a curve → distances (seeds, tasks, blocks). `uniform`: the distance under uniform attention.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))  # a name has one colour in all panels
    found = {title: {name: np.array(runs) for name, runs in lines.items()} for title, lines in panels.items()}
    blocks = next(iter(next(iter(found.values())).values())).shape[2]
    drawing = figure(1.2 + 3.1 * len(found), 0.7 + 1.55 * (blocks + 1))
    grid = drawing.subplots(blocks + 1, len(found), sharex=True, sharey=True, squeeze=False)
    for column, (title, lines) in zip(grid.T, found.items()):
        column[0].set_title(title, fontsize="medium")
        for block, axes in enumerate(column):
            for name, runs in lines.items():
                own = runs[..., block] if block < blocks else runs.mean(2)
                tasks = range(1, own.shape[1] + 1)
                draw_band(axes, tasks, own.T.tolist(), name, COLOURS[names.index(name)], 3)
            axes.axhline(uniform, color="#4a5568", linewidth=0.9, linestyle=(0, (4, 3)))
            axes.set(ylim=(0, 1.25 * uniform), xticks=list(tasks))
            plain(axes)
    for block, axes in enumerate(grid[:, 0]):
        axes.set_ylabel(f"block {block + 1}" if block < blocks else "mean", fontsize="small")
    for axes in grid[-1]:
        axes.set_xlabel("tasks learned")
    grid[0, 0].annotate("everywhere alike", (1, uniform), xytext=(0, 2), textcoords="offset points", fontsize=6.5, va="bottom",
                        color="#4a5568")  # fmt: skip
    fullest = max(range(len(found)), key=lambda column: len(list(found.values())[column]))
    grid[0, fullest].legend(frameon=False, fontsize="small", loc="center right", bbox_to_anchor=(1, 0.53))
    drawing.supylabel("distance at which a patch looks, in patches", fontsize="small")
    save(drawing, file)


def draw_maps(file: Path, image: Tensor, maps: Sequence[Tensor], far: Sequence[Tensor], norm: tuple, title: str) -> None:
    """Draw an image and where its middle patch, which is framed, attends: one row per block, one column per head.

    `maps`: for each block (heads, queries, keys); `far`: for each block (heads,), the mean distance over all patches.
    """
    side = round(maps[0].shape[-1] ** 0.5)
    heads, query = len(maps[0]), (side // 2) * side + side // 2
    drawing = figure(CELL * (heads + 1), CELL * len(maps) + 0.55)
    picture = shown(image[None], *norm)[0]
    size = picture.shape[0] / side
    for block, (row, own, distance) in enumerate(zip(drawing.subplots(len(maps), heads + 1, squeeze=False), maps, far)):
        row[0].imshow(picture)
        corner = (query % side * size - 0.5, query // side * size - 0.5)
        row[0].add_patch(frame(corner, size))
        row[0].set_ylabel(f"block {block + 1}", fontsize="small")
        for head, axes in enumerate(row[1:]):
            axes.imshow(own[head, query].reshape(side, side).float().cpu().numpy(), cmap="magma", vmin=0)
            axes.set_title(f"{'head ' if block == 0 else ''}{head + 1}: {float(distance[head]):.1f}", fontsize=6.5, pad=2)
            axes.add_patch(frame((query % side - 0.5, query // side - 0.5), 1))
        for axes in row:
            axes.set(xticks=[], yticks=[])
    drawing.suptitle(title, fontsize="small")
    save(drawing, file)


def frame(corner: tuple[float, float], size: float):
    from matplotlib.patches import Rectangle

    return Rectangle(corner, size, size, fill=False, edgecolor="#ff3366", linewidth=1.4)


def everywhere(side: int) -> float:
    """The attention distance under uniform attention, on a grid of side × side patches."""
    from cil.modules.growing.attention import nonlocality

    return float(nonlocality(torch.full((side**2, side**2), 1 / side**2), side))
