"""AWPF: adaptive weighted parameter fusion with CLIP (Guo et al. 2025), reconstructed since no code is released."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from cil.capabilities import HasText, require
from cil.common.ranges import MANY, Range, Share
from cil.data.scenario import Task
from cil.method import Method, Phase
from cil.modules.adapters.balance import discrepancy, separability, shift, trust
from cil.modules.adapters.fused_adapter import FusedAdapter, OldClasses
from cil.modules.adapters.fusion import PLAIN, decomposed, stacked

Fusion = Literal["stacked", "decomposed", "average", "new", "old"]
Balance = Literal["mmd_lda", "mmd", "lda", "half"]


class AWPF(FusedAdapter, Method):
    """Trains a linear adapter on frozen CLIP features. After each task its low-rank factors are stacked on the old ones, with a
    weight that grows with the distance between the tasks (MMD) and the separation of the classes (LDA)."""

    may_differ = ("fusion", "balance", "mmd_weight", "energy", "least", "samples", "bias")

    def __init__(
        self, backbone: nn.Module, *, templates: str | Sequence[str], underscores: bool, old_classes: OldClasses,
        fusion: Fusion, balance: Balance, mmd_weight: Share, energy: Share, least: Share,
        samples: Annotated[int, Range(2, MANY, example=100)], bias: Share,
    ) -> None:  # fmt: skip
        """`templates`, `underscores`: the texts of the classes, as in continual_clip. `fusion`: `stacked` (AWPF), or for
        comparison `decomposed` (RAPF's fusion, with its `bias`), `average`, `new` or `old`.

        `balance`: the measures that decide the weight of the new matrix. `mmd_weight`: λ. `energy`: η. `least`: lower bound of
        the weight. `samples`: pseudo-features per class on which MMD and LDA are measured.
        """
        require(backbone, HasText, "awpf")
        super().__init__(backbone, templates=templates, underscores=underscores, old_classes=old_classes)
        self.fusion, self.balance, self.mmd_weight, self.energy = fusion, balance, mmd_weight, energy
        self.least, self.samples, self.bias = least, samples, bias
        self._measured: dict = {}

    def phases(self, task: Task) -> list[Phase]:
        self._measured = {}
        return [Phase("train", task, task.train, [self.adapter])]

    def merged(self, old: Tensor, new: Tensor) -> Tensor:
        if self.fusion == "decomposed":
            return decomposed(old, new, self.bias)
        weight = PLAIN.get(self.fusion)
        ranks: tuple[int, ...] = ()
        if weight is None:
            weight = max(self.least, self.weight())
            merged, ranks = stacked(old, new, weight, self.energy)
        else:
            merged = (1 - weight) * old + weight * new
        self._measured |= {"weight of new": round(weight, 4), "ranks": list(ranks)}
        return merged

    def weight(self) -> float:
        """Returns τ, the weight of the new matrix, measured on its outputs for pseudo-features of the last two tasks."""
        last, new = self.tasks[-2:]
        labels = torch.arange(last.start, new.stop)
        features = self.embedded(self.gaussians.sample(labels, self.samples).flatten(0, 1))
        older = len(last) * self.samples
        moved = shift(discrepancy(features[:older], features[older:]))
        parted = separability(features, labels.repeat_interleave(self.samples).to(features.device))
        self._measured = {"MMD": round(moved, 4), "LDA": round(parted, 4)}
        measured = {"mmd_lda": (moved, parted), "mmd": (moved, 0.5), "lda": (0.5, parted)}
        return 0.5 if self.balance == "half" else trust(*measured[self.balance], self.mmd_weight)

    def facts(self) -> dict:
        return {**self._measured, "ridge": self.gaussians.ridge}
