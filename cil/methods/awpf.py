"""AWPF: adaptive weighted parameter fusion with CLIP (Guo et al. 2025), reconstructed since no code is released."""

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from cil.capabilities import HasText, require
from cil.common.ranges import MANY, Range, Share
from cil.method import Method, Phase, Task
from cil.modules.adapters.fused_adapter import FusedAdapter, OldClasses, Start
from cil.modules.adapters.fusion import PLAIN, decomposed, discrepancy, separability, shift, stacked, trust
from cil.modules.text import ClassTexts

Fusion = Literal["stacked", "decomposed", "average", "new", "old"]
Balance = Literal["mmd_lda", "mmd", "lda", "half"]
Scale = Literal["fixed", "largest"]
Factor = Literal["matrix", "direction"]


class AWPF(FusedAdapter, Method):
    """Trains a linear adapter on frozen CLIP features. After each task its low-rank factors are stacked on the old ones, with a
    weight that grows with the distance between the tasks (MMD) and the separation of the classes (LDA)."""

    may_differ = ("fusion", "balance", "mmd_weight", "energy", "least", "samples", "bias", "start")
    largest: Tensor  # (sets, 2): the largest MMD and LDA of all merges so far

    def __init__(
        self, backbone: nn.Module, *, class_texts: ClassTexts, old_classes: OldClasses, fusion: Fusion, balance: Balance,
        mmd_weight: Share, energy: Share, least: Share, samples: Annotated[int, Range(2, MANY, example=100)], bias: Share,
        start: Start = "random", scale: Scale = "fixed", factor: Factor = "matrix",
    ) -> None:  # fmt: skip
        """`fusion`: `stacked` (AWPF), or for comparison `decomposed` (that of RAPF, with `bias`), `average`, `new` or `old`.

        `balance`: the measures that decide the weight of the new matrix. `mmd_weight`: λ. `energy`: η. `least`: lower bound of
        the weight. `samples`: pseudo-features per class on which MMD and LDA are measured.

        `scale`: both measures lie between 0 and 1 by their `fixed` bounds, or each is divided by the `largest` that it has had
        in the run. `factor`: one weight for the `matrix`, or one for each `direction` (left singular vector of the new matrix),
        measured along it; the directions are then merged without truncation.
        """
        require(backbone, HasText, "awpf")
        super().__init__(backbone, class_texts=class_texts, old_classes=old_classes, start=start)
        self.fusion, self.balance, self.mmd_weight, self.energy = fusion, balance, mmd_weight, energy
        self.least, self.samples, self.bias, self.scale, self.factor = least, samples, bias, scale, factor
        if scale == "largest":
            sets = len(self.adapter) if factor == "direction" else 1
            self.register_buffer("largest", torch.zeros(sets, 2, dtype=torch.double))
        self._measured: dict = {}

    def phases(self, task: Task) -> list[Phase]:
        self._measured = {}
        return super().phases(task)

    def merged(self, old: Tensor, new: Tensor) -> Tensor:
        if self.fusion == "decomposed":
            return decomposed(old, new, self.bias)
        weight = PLAIN.get(self.fusion)
        if weight is not None:
            self._measured = {"weight of new": weight, "ranks": []}
            return (1 - weight) * old + weight * new
        features, labels = self.pseudo_features()
        if self.factor == "direction":
            return self.by_direction(old, new, features, labels)
        weight = max(self.least, *self.weights(features[None], labels))
        merged, ranks = stacked(old, new, weight, self.energy)
        self._measured |= {"weight of new": round(weight, 4), "ranks": list(ranks)}
        return merged

    def by_direction(self, old: Tensor, new: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """Merge along each left singular vector of the new matrix, with the weight measured on that coordinate of features."""
        basis = torch.linalg.svd(new)[0]
        measured = self.weights((features @ basis.to(features)).T[..., None], labels)
        weights = torch.tensor(measured).clamp_min(self.least).to(new)
        self._measured |= {"weight of new": round(float(weights.mean()), 4), "ranks": []}
        return old + basis * weights @ basis.T @ (new - old)

    def pseudo_features(self) -> tuple[Tensor, Tensor]:
        """Return adapted pseudo-features of the last two tasks, (rows, width), the older task's first, and their labels."""
        last, new = self.tasks[-2:]
        labels = torch.arange(last.start, new.stop)
        features = self.embedded(self.gaussians.sample(labels, self.samples).flatten(0, 1))
        return features, labels.repeat_interleave(self.samples).to(features.device)

    def weights(self, sets: Tensor, labels: Tensor) -> list[float]:
        """Return τ, the weight of the new matrix, for each of several sets of features, (sets, rows, width)."""
        older = len(self.tasks[-2]) * self.samples
        measured = [[shift(discrepancy(own[:older], own[older:])), separability(own, labels)] for own in sets]
        both = torch.tensor(measured, dtype=torch.double)
        self._measured = {name: round(value, 4) for name, value in zip(("MMD", "LDA"), both.mean(0).tolist())}
        if self.scale == "largest":
            self.largest = self.largest.maximum(both.to(self.largest))
            both = both / self.largest.cpu().clamp_min(torch.finfo(torch.double).tiny)
        if self.balance == "half":
            return [0.5] * len(sets)
        first, second = self.balance in ("mmd_lda", "mmd"), self.balance in ("mmd_lda", "lda")
        return [trust(m if first else 0.5, j if second else 0.5, self.mmd_weight) for m, j in both.tolist()]

    def facts(self) -> dict:
        return {**self._measured, "ridge": self.gaussians.ridge}
