"""AWPF: adaptive weighted parameter fusion with CLIP (Guo et al. 2025), in the reading that its specification fixes."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from cil.capabilities import HasText, require
from cil.common.ranges import MANY, Count, Positive, Range, Share, Weight
from cil.data.scenario import Task
from cil.method import Method, Phase
from cil.modules.adapters.balance import discrepancy, separability, shift, trust
from cil.modules.adapters.fused_adapter import Cosine, FusedAdapter
from cil.modules.adapters.fusion import PLAIN, decomposed, stacked

FUSIONS = ("stacked", "decomposed", *PLAIN)
BALANCES = ("mmd_lda", "mmd", "lda", "half")


class AWPF(FusedAdapter, Method):
    """After each task the adapter's low-rank factors are stacked on the old ones, weighted by how far the tasks lie apart
    (MMD) and how well their classes part (LDA)."""

    after_training = ("fusion", "balance", "mmd_weight", "energy", "least", "samples", "bias")

    def __init__(
        self, backbone: nn.Module, *, templates: str | Sequence[str], underscores: bool, classes_drawn: Count, beta: Positive,
        shrinkage: bool, hinge: Weight, margin: Cosine, threshold: Cosine, fusion: Literal[FUSIONS],
        balance: Literal[BALANCES], mmd_weight: Share, energy: Share, least: Share,
        samples: Annotated[int, Range(2, MANY, example=100)], bias: Share,
    ) -> None:  # fmt: skip
        """Down to `threshold`: see FusedAdapter. `fusion`: `stacked`, or one to compare with: `decomposed` (RAPF's, with its
        `bias`), `average`, `new` or `old`.

        `balance`: what the weight of the new matrix is made of; `mmd_weight` is λ, `energy` η, `least` its lower bound,
        `samples` the pseudo-features of each class that it is measured on.
        """
        require(backbone, HasText, "awpf")
        super().__init__(backbone, templates=templates, underscores=underscores, classes_drawn=classes_drawn, beta=beta,
                         shrinkage=shrinkage, hinge=hinge, margin=margin, threshold=threshold)  # fmt: skip
        self.fusion, self.balance, self.mmd_weight, self.energy = fusion, balance, mmd_weight, energy
        self.least, self.samples, self.bias = least, samples, bias
        self._told: dict = {}

    def phases(self, task: Task) -> list[Phase]:
        self._told = {}
        return [Phase("train", task, task.train, [self.adapter])]

    def merged(self, old: Tensor, new: Tensor) -> Tensor:
        if self.fusion == "decomposed":
            return decomposed(old, new, self.bias)
        weight, ranks = PLAIN.get(self.fusion), ()
        if weight is None:
            weight = max(self.least, self.weight())
            merged, ranks = stacked(old, new, weight, self.energy)
        else:
            merged = (1 - weight) * old + weight * new
        self._told |= {"weight of new": round(weight, 4), "ranks": list(ranks)}
        return merged

    def weight(self) -> float:
        """τ: of pseudo-features of the last two tasks, behind the new matrix."""
        last, new = self.tasks[-2:]
        labels = torch.arange(last.start, new.stop)
        features = self.embedded(self.gaussians.sample(labels, self.samples).flatten(0, 1))
        older = len(last) * self.samples
        moved = shift(discrepancy(features[:older], features[older:]))
        parted = separability(features, labels.repeat_interleave(self.samples).to(features.device))
        self._told = {"MMD": round(moved, 4), "LDA": round(parted, 4)}
        measured = {"mmd_lda": (moved, parted), "mmd": (moved, 0.5), "lda": (0.5, parted)}
        return 0.5 if self.balance == "half" else trust(*measured[self.balance], self.mmd_weight)

    def facts(self) -> dict:
        return {**self._told, "ridge": self.gaussians.ridge}
