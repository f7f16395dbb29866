"""t-SNE plots of the features of the frozen backbone and of the method (AWPF's Figure 3)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
from torch import Tensor

from cil.modules.adapters.fusion import separability
from cil.pictures.accuracy import figure, save

PANEL = 5.4  # inches
WIDTH = 22  # characters per line of a class name
BELOW = (0, 0.022)  # offset of a name, so that it does not hide its images


def plane(features: Tensor, seed: int = 0) -> np.ndarray:
    """Embed features (images, width) in the plane by t-SNE: (images, 2) in [0, 1], deterministic for a seed."""
    from sklearn.manifold import TSNE

    perplexity = min(30, (len(features) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features.double().cpu().numpy())
    low, high = places.min(0), places.max(0)
    return (places - low) / np.maximum(high - low, 1e-12)


def draw_planes(file: Path, sets: Mapping[str, Tensor], labels: Tensor, names: Sequence[str]) -> None:
    """Draw one panel for each set of normalized features (images, width) of the same images, with one color per class.

    `labels`: (images,); `names[k]`: the class name of label k. The title gives the share of between-class scatter.
    """
    from matplotlib import colormaps

    drawing = figure(PANEL * len(sets), PANEL + 0.35)
    classes = labels.unique().tolist()
    colours = colormaps["turbo"](np.linspace(0.02, 0.98, len(classes)))
    own = labels.cpu().numpy()
    for axes, (title, features) in zip(drawing.subplots(1, len(sets), squeeze=False)[0], sets.items()):
        places = plane(features)
        for label, colour in zip(classes, colours):
            mine = places[own == label]
            axes.scatter(*mine.T, s=7, color=colour, linewidths=0, alpha=0.85)
        for (x, y), label, colour in zip(
            apart([np.median(places[own == label], 0) - BELOW for label in classes]), classes, colours
        ):
            axes.text(x, y, fill(names[label], WIDTH), fontsize=6.5, ha="center", va="top", color=0.6 * colour[:3],
                      linespacing=0.95, bbox={"color": "white", "alpha": 0.6, "pad": 0.4, "linewidth": 0})  # fmt: skip
        share = separability(features.double(), labels)
        axes.set_title(f"{title} · {100 * share:.0f} % of the scatter is between classes", fontsize="medium")
        axes.set(xticks=[], yticks=[], xlim=(-0.12, 1.12), ylim=(-0.08, 1.04))
        axes.spines[:].set_color("#cbd5e0")
    save(drawing, file)


def apart(places: Sequence[np.ndarray], least: float = 0.045) -> np.ndarray:
    """Positions of labels (n, 2): as given, but overlapping labels are moved up and down until they are `least` apart."""
    moved = np.array(places, float)
    for _ in range(200):
        still = True
        for i in range(len(moved)):
            for j in range(i):
                across, up = np.abs(moved[i] - moved[j])
                if across < 0.22 and up < least:
                    step = (least - up) / 2 + 1e-4
                    higher, lower = (i, j) if moved[i, 1] >= moved[j, 1] else (j, i)
                    moved[higher, 1] += step
                    moved[lower, 1] -= step
                    still = False
        if still:
            break
    return moved
