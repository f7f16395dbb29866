"""Go on with pre-training from a file: a vision transformer's last blocks learn on photographs, with labels or without.

The first `frozen` blocks stay as the file has them, so what they make of a few crops of each photograph is computed once and
kept in files; an epoch costs the last blocks alone. Killed at any moment, the same command goes on to the same bits.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.backbones.vit import ViT, walk
from cil.common.errors import UserError
from cil.common.files import replace_file, write_text
from cil.common.seeding import generator, seed_everything
from cil.data.transforms.views import View

BLOCK = 250  # photographs a file of tokens


@dataclass(frozen=True)
class Recipe:
    objective: str  # a key of OBJECTIVES
    epochs: int
    frozen: int  # blocks that stay as they are, and with them the patch embedding and the positions
    variants: int  # crops of a photograph that are kept; each step draws among them
    seed: int = 0
    batch_size: int = 256
    lr: float = 5e-4  # peak, of the last block
    layer_decay: float = 0.7  # of the rate, a block towards the image
    weight_decay: float = 0.05
    warm: float = 0.1  # share of the steps before the peak
    crop: tuple[float, float] = (0.4, 1.0)  # share of the area
    begin: str = "identity"  # the trained blocks begin as the identity; file: as the file has them


# --- the trunk in two parts -------------------------------------------------------------------------------------------


def early(backbone: ViT, images: Tensor, frozen: int) -> Tensor:
    """(batch, tokens, width) after the first `frozen` blocks."""
    x = backbone.tokens(images)
    for block in backbone.trunk.blocks[:frozen]:
        x = walk(block, x, None)
    return x


def late(backbone: ViT, x: Tensor, frozen: int) -> Tensor:
    """(batch, width) features of what `early` gave."""
    *blocks, last = backbone.trunk.blocks[frozen:]
    for block in blocks:
        x = walk(block, x, None)
    return backbone.trunk.norm(walk(last, x, None, slice(0, 1))).mean(1)


@torch.no_grad()
def begin_as_identity(blocks: Iterable[nn.Module]) -> None:
    """Set the layer scales of the blocks to 0, so that each gives what it is given until it learns."""
    for block in blocks:
        block.ls1.gamma.zero_()
        block.ls2.gamma.zero_()


class Tokens:
    """Half-precision results of `early` for each photograph and variant, in files of `BLOCK` photographs."""

    def __init__(self, folder: Path, count: int, variants: int) -> None:
        self.count = count
        self._parts = [[np.load(file, mmap_mode="r") for file in row] for row in _files(folder, count, variants)]

    def take(self, rows: Tensor, variants: Tensor) -> Tensor:
        """(len(rows), tokens, width), one variant each."""
        found = [self._parts[v][row // BLOCK][row % BLOCK] for row, v in zip(rows.tolist(), variants.tolist(), strict=True)]
        return torch.from_numpy(np.stack(found)).float()


def _files(folder: Path, count: int, variants: int) -> list[list[Path]]:
    return [[folder / f"{v}-{number:05d}.npy" for number in range(-(-count // BLOCK))] for v in range(variants)]


def kept_tokens(
    folder: Path, backbone: ViT, pixels, view: View, *, about: str, frozen: int, variants: int, seed: int,
    say: Callable[[str], None],
) -> Tokens:  # fmt: skip
    """The tokens of all `pixels`, computed where their file is absent; `about` says of which weights and photographs."""
    facts = json.dumps([about, frozen, seed, view.words(), str(torch.__version__)])
    folder = folder / hashlib.sha256(facts.encode()).hexdigest()[:16]
    rows = _files(folder, len(pixels), variants)
    missing = [(v, number) for number in range(len(rows[0])) for v in range(variants) if not rows[v][number].is_file()]
    started = time.perf_counter()
    for done, (v, number) in enumerate(missing):
        block = pixels[number * BLOCK : (number + 1) * BLOCK]
        with torch.inference_mode():
            images = view(block, generator(seed, "crops", v, number))
            tokens = torch.cat([early(backbone, few, frozen) for few in images.split(50)])
        with replace_file(rows[v][number]) as temporary, temporary.open("wb") as opened:
            np.save(opened, tokens.half().numpy())
        say(f"tokens: {done + 1} of {len(missing)} files of {BLOCK} crops, {time.perf_counter() - started:.0f} s")
    return Tokens(folder, len(pixels), variants)


# --- objectives -------------------------------------------------------------------------------------------------------


class Labels(nn.Module):
    """Cross-entropy over the classes of the photographs."""

    views = 1

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, classes)

    def forward(self, features: Sequence[Tensor], frozen: Sequence[Tensor], labels: Tensor) -> Tensor:
        return F.cross_entropy(self.head(features[0]), labels, label_smoothing=0.1)


class Crops(nn.Module):
    """Self-distillation without labels: recognise, among all photographs of a batch, the other crop of one's own.

    The teacher is the frozen class token that the trained blocks begin from, less its mean over the batch. Its targets do
    not move, so the features cannot collapse to a point.
    """

    views = 2

    def __init__(self, width: int, classes: int, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, features: Sequence[Tensor], frozen: Sequence[Tensor], labels: Tensor) -> Tensor:
        return (self._one_way(features[0], frozen[1]) + self._one_way(features[1], frozen[0])) / 2

    def _one_way(self, features: Tensor, frozen: Tensor) -> Tensor:
        targets = F.normalize(frozen - frozen.mean(0), dim=1)
        scores = F.normalize(features, dim=1) @ targets.T / self.temperature
        return F.cross_entropy(scores, torch.arange(len(scores)))


OBJECTIVES = {"labels": Labels, "crops": Crops}


# --- training ---------------------------------------------------------------------------------------------------------


def recover(
    backbone: ViT, tokens: Tokens, labels: Tensor, recipe: Recipe, folder: Path, about: str, *, every: int = 20,
    stop_after: int | None = None,
) -> None:  # fmt: skip
    """Train the last blocks and the final norm in place; `folder` keeps the checkpoint and log.jsonl.

    A checkpoint of another recipe or of other data (`about`) is refused. `stop_after`: steps, for the tests.
    """
    seed_everything(recipe.seed, "objective")
    objective = OBJECTIVES[recipe.objective](backbone.width, int(labels.max()) + 1)
    if recipe.begin == "identity":
        begin_as_identity(backbone.trunk.blocks[recipe.frozen :])
    trained = nn.ModuleList([backbone.trunk.blocks[recipe.frozen :], backbone.trunk.norm, objective]).train()
    optimizer = torch.optim.AdamW(_groups(backbone, objective, recipe))
    per_epoch = max(1, len(labels) // recipe.batch_size)
    steps, checkpoint, log = recipe.epochs * per_epoch, folder / "checkpoint.pt", folder / "log.jsonl"
    done, facts = 0, json.dumps({"recipe": asdict(recipe), "about": about})
    if checkpoint.is_file():
        done = _restore(checkpoint, trained, optimizer, facts)
    lines = [line for line in (log.read_text().splitlines() if log.is_file() else []) if json.loads(line)["step"] <= done]
    losses, started = [], time.perf_counter()
    for step in range(done, min(steps, steps if stop_after is None else stop_after)):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _rate(step, steps, recipe.warm)
        rows, chosen = _batch(step, per_epoch, len(labels), objective.views, recipe)
        taken = [tokens.take(rows, variants) for variants in chosen]
        features = [late(backbone, x, recipe.frozen) for x in taken]
        loss = objective(features, [x[:, 0] for x in taken], labels[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % every == 0 or step + 1 == steps:
            seconds = round(time.perf_counter() - started, 1)
            lines.append(json.dumps({"step": step + 1, "of": steps, "epoch": step // per_epoch, "loss": np.mean(losses),
                                     "spread": spread(features[0]), "seconds": seconds}))  # fmt: skip
            _keep(checkpoint, trained, optimizer, facts, step + 1)
            write_text(log, "\n".join(lines) + "\n")
            losses, started = [], time.perf_counter()
    backbone.eval()


def spread(features: Tensor) -> float:
    """Mean deviation of a unit feature's components times √width: 1 where they point everywhere, 0 after a collapse."""
    unit = F.normalize(features.detach(), dim=1)
    return round(unit.std(0).mean().item() * unit.shape[1] ** 0.5, 4)


def _groups(backbone: ViT, objective: nn.Module, recipe: Recipe) -> list[dict]:
    """Weights by their rate, matrices with weight decay and the others without."""
    blocks = backbone.trunk.blocks
    parts = [(objective, 1.0), (backbone.trunk.norm, 1.0)]
    parts += [(blocks[k], recipe.layer_decay ** (len(blocks) - 1 - k)) for k in range(recipe.frozen, len(blocks))]
    groups = []
    for part, share in parts:
        for decay, own in ((recipe.weight_decay, [p for p in part.parameters() if p.ndim > 1]),
                           (0.0, [p for p in part.parameters() if p.ndim < 2])):  # fmt: skip
            if own:
                groups.append({"params": own, "weight_decay": decay, "peak": recipe.lr * share, "lr": recipe.lr * share})
    return groups


def _rate(step: int, steps: int, warm: float) -> float:
    """Share of the peak: up in a line, down in half a cosine."""
    rise = max(1, round(steps * warm))
    return (step + 1) / rise if step < rise else (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2


def _batch(step: int, per_epoch: int, count: int, views: int, recipe: Recipe) -> tuple[Tensor, list[Tensor]]:
    """Rows of a step, and which variant of each for every view; the variants of one photograph differ."""
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(count, generator=generator(recipe.seed, "order", epoch))
    rows = order[place * recipe.batch_size : (place + 1) * recipe.batch_size]
    drawn = torch.rand(len(rows), recipe.variants, generator=generator(recipe.seed, "variants", step)).argsort(1)
    return rows, list(drawn[:, :views].T)


def _keep(file: Path, trained: nn.Module, optimizer: torch.optim.Optimizer, facts: str, step: int) -> None:
    state = {"facts": facts, "step": step, "trained": trained.state_dict(), "optimizer": optimizer.state_dict()}
    with replace_file(file) as temporary:
        torch.save(state, temporary)


def _restore(file: Path, trained: nn.Module, optimizer: torch.optim.Optimizer, facts: str) -> int:
    state = torch.load(file, weights_only=True)
    if state["facts"] != facts:
        raise UserError(f"{file} belongs to another recipe or other photographs; type --name OTHER, or remove its folder")
    trained.load_state_dict(state["trained"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


# --- the measure ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def nearest_class_mean(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Percent of `test` that lie nearest, by cosine, to the mean of their class's unit features."""
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    means = torch.stack([train[train_labels == label].mean(0) for label in range(int(train_labels.max()) + 1)])
    right = (test @ F.normalize(means, dim=1).T).argmax(1) == test_labels
    return round(100 * right.float().mean().item(), 2)


def in_blocks(tokens: Tokens) -> Iterator[Tensor]:
    """All first variants, a file at a time."""
    for start in range(0, tokens.count, BLOCK):
        rows = torch.arange(start, min(start + BLOCK, tokens.count))
        yield tokens.take(rows, torch.zeros_like(rows))


@torch.no_grad()
def features(backbone: ViT, tokens: Tokens, frozen: int) -> Tensor:
    """(photographs, width) of what `early` kept."""
    return torch.cat([late(backbone, x, frozen) for x in in_blocks(tokens)])


def class_tokens(tokens: Tokens) -> Tensor:
    """(photographs, width): the class token after the last frozen block."""
    return torch.cat([x[:, 0] for x in in_blocks(tokens)])
