"""Grad-CAM maps of the cosine similarity between images and text prompts (AttriCLIP, figures 4 and 5)."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cil.capabilities import ChoosesPrompts, HasCamLayer, require
from cil.pictures.accuracy import figure, save

CELL = 1.15  # inches per image


def grad_cam(backbone: HasCamLayer, images: Tensor, texts: Tensor, *, contrast: bool = False) -> Tensor:
    """Grad-CAM maps (images, texts, height, width) in [0, 1], of `images` (n, 3, height, width) and `texts` (m, width).

    The score of a text is exp(logit_scale) · cos(image, text), or with `contrast` its log-softmax over all texts.
    Activations are taken after the first norm of the last block: after the block only the class token reaches the score, so
    the patches would have no gradient. A channel's weight is the mean of its gradient over patches; negative values are cut.
    """
    model: Any = backbone  # a module
    kept: list[Tensor] = []

    def keep(*called: Any) -> Tensor:
        kept.append(called[-1].detach().requires_grad_())
        return kept[-1]

    hook = model.cam_layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            scores = model.logit_scale.detach() * F.normalize(model(images).float(), dim=1) @ texts.detach().T
            scores = scores.log_softmax(1) if contrast else scores
            gradients = [torch.autograd.grad(column.sum(), kept[0], retain_graph=True)[0] for column in scores.unbind(1)]
    finally:
        hook.remove()
    patches, slopes = kept[0][:, 1:].detach(), torch.stack(gradients, 1)[:, :, 1:]  # without the class token
    maps = torch.einsum("bpc,btc->btp", patches, slopes.mean(2)).clamp_min(0)
    side = round(maps.shape[2] ** 0.5)
    maps = F.interpolate(maps.unflatten(2, (side, side)), images.shape[-2:], mode="bilinear")
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-12)


def shown(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Undo the normalization: (n, 3, height, width) → (n, height, width, 3) in [0, 1]."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    return (images.cpu() * std + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def draw_prompts(
    files: tuple[Path, Path], method: ChoosesPrompts, images: Tensor, names: Sequence[str], contrast: bool
) -> None:
    """Draw two files: each image with the prompts that it chose, best first; and the most chosen prompts on all images.

    Prompts are encoded without a class name, as in the method's diversity loss.
    """
    backbone: Any = getattr(method, "backbone", None)
    require(method, ChoosesPrompts, "pictures of prompts")
    require(backbone, HasCamLayer, "pictures of prompts")
    with torch.no_grad():
        chosen, texts = method.choose(F.normalize(method.frozen_stage(images), dim=1)), method.alone()
    maps = grad_cam(backbone, images, texts, contrast=contrast).cpu().numpy()
    seen, spec = shown(images, backbone.image.mean, backbone.image.std), range(len(images))
    rows = [[(seen[n], maps[n, k], f"prompt {k + 1}") for k in chosen[n].tolist()] for n in spec]
    draw_grid(files[0], [[(seen[n], None, "image"), *row] for n, row in zip(spec, rows)], names)
    often = torch.bincount(chosen.flatten().cpu(), minlength=len(texts)).argsort(descending=True, stable=True)[:3].tolist()
    head = [(seen[n], None, name) for n, name in zip(spec, names)]
    draw_grid(files[1], [head, *([(seen[n], maps[n, k], "") for n in spec] for k in often)],
              ["image", *(f"prompt {k + 1}" for k in often)])  # fmt: skip


def draw_grid(file: Path, rows: Sequence[Sequence[tuple]], labels: Sequence[str]) -> None:
    """Draw rows of cells (image, map or None, title), with a label before each row."""
    high, wide = len(rows), max(map(len, rows))
    drawing = figure(CELL * wide + 1.3, (CELL + 0.22) * high)
    cells = drawing.subplots(high, wide, squeeze=False)
    for row, label, axes in zip(rows, labels, cells, strict=True):
        for cell, place in zip(row, axes):
            image, heat, title = cell
            if heat is None:
                place.imshow(image, interpolation="nearest")
            else:  # a grey image, so that only the map has colours
                place.imshow(image.mean(2), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                place.imshow(heat, cmap="turbo", alpha=0.5, vmin=0, vmax=1, interpolation="nearest")
            nowhere = ["nowhere"] if heat is not None and not heat.any() else []
            place.set_title(folded(", ".join([title] * bool(title) + nowhere), 16), fontsize=7, pad=2)
        for place in axes:
            place.set(xticks=[], yticks=[])
            place.spines[:].set_visible(False)
        axes[0].set_ylabel(folded(label, 16), fontsize=7, rotation=0, ha="right", va="center")
    save(drawing, file)


def folded(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width)) or text


def draw_usage(file: Path, percents: Sequence[Sequence[float]], title: str) -> None:
    """Draw how often each key was chosen, in percent of images: one row per task, one column per key."""
    share = np.array(percents, dtype=float)
    drawing = figure(max(4.0, 0.09 * share.shape[1] + 1.8), max(2.2, 0.13 * share.shape[0] + 1.2))
    axes = drawing.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, aspect="auto")
    tasks, keys = range(share.shape[0]), range(0, share.shape[1], max(1, share.shape[1] // 10))
    axes.set(title=title, xlabel="key", ylabel="task")
    axes.title.set_fontsize("small")
    axes.set_xticks(keys, [key + 1 for key in keys])
    axes.set_yticks(tasks, [task + 1 for task in tasks], fontsize=7)
    axes.spines[:].set_visible(False)
    drawing.colorbar(image, ax=axes, shrink=0.9, label="percent of images")
    save(drawing, file)
