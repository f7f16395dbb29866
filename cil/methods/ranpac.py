"""RanPAC: ridge regression on random features of a backbone tuned on the first task (McDonnell et al., NeurIPS 2023)."""

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from cil.capabilities import TakesAdapters, require
from cil.common.ranges import Positive, Whole
from cil.method import Method, Task
from cil.modules.adapters.first_task import FirstTaskTuned
from cil.modules.adapters.parallel import AdapterSize
from cil.modules.heads.cosine import exact

SHRINKAGES = tuple(10.0**power for power in range(-8, 9))
ROWS = 4096  # features that are projected at a time


class RanPAC(FirstTaskTuned, Method):
    """Solves the classifier from sums over all images so far. Apart from the shrinkage it does not depend on the task order."""

    def __init__(
        self, backbone: nn.Module, *, tune: bool, size: AdapterSize, features: Whole, shrinkage: Positive | None,
        chosen_on: Literal["all", "task"],
    ) -> None:  # fmt: skip
        """`features`: number of random features; 0: use the backbone's features. `shrinkage`: ridge parameter; null chooses the
        power of ten with the least squared error on 20 % of a task's images. `chosen_on`: fit for that choice on `all` images
        so far or only on those of the `task`, which may be too small for the classifier solved from all images."""
        if tune:
            require(backbone, TakesAdapters, "ranpac")
        super().__init__(backbone, size, tune=tune)
        self.shrinkage, self.chosen, self.used, self.chosen_on = shrinkage, shrinkage, shrinkage, chosen_on
        self.unstable = False
        self.ridge = RandomRidge(backbone.width, features)

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        self.ridge.grow(len(task.seen))

    def end_task(self, task: Task) -> None:
        features, labels = self.of_task(task)
        order = torch.randperm(len(labels)).to(labels.device)  # mixes the classes, as the released code does
        with exact(features):
            self.chosen = self.shrinkage
            if self.chosen is None:
                self.chosen = self.ridge.best(features[order], labels[order], alone=self.chosen_on == "task")
            self.ridge.see(features, labels)
            self.used = self.ridge.solve(self.chosen)
        self.unstable = self.ridge.near_its_peak(self.used)

    def frozen_stage(self, images: Tensor) -> Tensor:
        return self.adapted(images).float()

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        with exact(frozen):
            return self.ridge(frozen)

    def doubts(self) -> list[str]:
        if not self.unstable:
            return []
        return [f"there are about as many images as the {len(self.ridge.gram)} features, and a shrinkage of {self.used:g} is "
                "too small, so the classifier overfits; type method.chosen_on=all, or another method.features"]  # fmt: skip

    def facts(self) -> dict:
        """Reports both values if a larger shrinkage had to be used because the factorization failed with the chosen one."""
        return {"shrinkage": self.used} | ({} if self.used == self.chosen else {"chosen shrinkage": self.chosen})


class RandomRidge(nn.Module):
    """A ridge classifier whose sums are the same if data come in parts or all at once, so that nothing is forgotten."""

    def __init__(self, width: int, features: int) -> None:
        """`features`: the number of random features; 0 uses the inputs as they are."""
        super().__init__()
        self.register_buffer("directions", torch.randn(width, features) if features else torch.empty(width, 0))
        size = features or width
        self.register_buffer("gram", torch.zeros(size, size, dtype=torch.double))
        self.register_buffer("towards", torch.zeros(size, 0, dtype=torch.double))  # (features, classes)
        self.register_buffer("weight", torch.zeros(size, 0))
        self.register_buffer("images", torch.zeros((), dtype=torch.long))  # the number of images seen

    def grow(self, classes: int) -> None:
        for name in ("towards", "weight"):
            old = getattr(self, name)
            setattr(self, name, torch.cat([old, old.new_zeros(len(old), classes - old.shape[1])], 1))

    def lift(self, given: Tensor) -> Tensor:
        return (given @ self.directions).relu() if self.directions.shape[1] else given

    def see(self, given: Tensor, labels: Tensor) -> None:
        self.images += len(labels)
        for some, wanted in zip(given.split(ROWS), one_hot(labels, self.towards.shape[1]).double().split(ROWS)):
            lifted = self.lift(some).double()
            self.gram += lifted.T @ lifted
            self.towards += lifted.T @ wanted

    def solve(self, shrinkage: float) -> float:
        """Compute the weights and return the shrinkage used: it is increased tenfold until there is a Cholesky factor."""
        found = solved(self.gram, self.towards, shrinkage)
        while found.isnan().any() and shrinkage < self.gram.diagonal().max():
            shrinkage *= 10
            found = solved(self.gram, self.towards, shrinkage)
        self.weight = found.float()
        return shrinkage

    def forward(self, given: Tensor) -> Tensor:
        return self.lift(given) @ self.weight

    def best(self, given: Tensor, labels: Tensor, share: float = 0.8, *, alone: bool) -> float:
        """Return the shrinkage with the least squared error: fitted on the first `share` of the images, tested on the rest.

        `alone`: fit on these images only; otherwise add the sums over all images seen before.
        """
        lifted = self.lift(given).double()
        wanted = one_hot(labels, self.towards.shape[1]).double()
        cut = int(share * len(lifted))
        if not cut:  # a single image leaves nothing to fit on
            return 1.0
        if alone:
            answers = explained(lifted[:cut], wanted[:cut], lifted[cut:], SHRINKAGES)
            return SHRINKAGES[int(torch.stack([(answer - wanted[cut:]).square().mean() for answer in answers]).argmin())]
        gram, towards = self.gram + lifted[:cut].T @ lifted[:cut], self.towards + lifted[:cut].T @ wanted[:cut]
        best, least = 0.0, math.inf
        for shrinkage in reversed(SHRINKAGES):  # from the largest down, to stop early: each costs a factorisation
            error = (lifted[cut:] @ solved(gram, towards, shrinkage) - wanted[cut:]).square().mean().item()
            if error < least:
                best, least = shrinkage, error
            elif shrinkage < best / 10:  # the error has risen twice
                break
        return best

    def near_its_peak(self, shrinkage: float) -> bool:
        """Whether there are about as many images as features and almost no shrinkage: such a solution fits the noise."""
        features = len(self.gram)
        many = (self.images > 0.5 * features) & (self.images < 2 * features)
        return bool(many & (shrinkage * features < 1e-6 * self.gram.trace()))


def solved(gram: Tensor, towards: Tensor, shrinkage: float) -> Tensor:
    """Return (gram + λI)⁻¹ towards, or NaN if there is no Cholesky factor."""
    factor, failed = torch.linalg.cholesky_ex(gram + shrinkage * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    return torch.where(failed > 0, torch.nan, torch.cholesky_solve(towards, factor))


def explained(seen: Tensor, wanted: Tensor, others: Tensor, shrinkages: Iterable[float]) -> list[Tensor]:
    """Return others (seenᵀ seen + λI)⁻¹ seenᵀ wanted for each λ, from one eigendecomposition (of seen seenᵀ if smaller)."""
    wide = seen.shape[1] > len(seen)
    values, vectors = torch.linalg.eigh(seen @ seen.T if wide else seen.T @ seen)
    left, right = (others @ seen.T @ vectors, vectors.T @ wanted) if wide else (others @ vectors, vectors.T @ (seen.T @ wanted))
    return [left @ (right / (values.clamp_min(0)[:, None] + shrinkage)) for shrinkage in shrinkages]
