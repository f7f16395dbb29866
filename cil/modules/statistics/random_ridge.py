"""A ridge regression on random features, solved from sums: RanPAC's classifier."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

SHRINKAGES = tuple(10.0**power for power in range(-8, 9))
ROWS = 4096  # that are lifted at a time


class RandomRidge(nn.Module):
    """What it has seen in parts is what it would have seen at once, so that nothing is forgotten."""

    def __init__(self, width: int, features: int) -> None:
        """`features` random ones; 0: the given ones as they are."""
        super().__init__()
        self.register_buffer("directions", torch.randn(width, features) if features else torch.empty(width, 0))
        size = features or width
        self.register_buffer("gram", torch.zeros(size, size, dtype=torch.double))
        self.register_buffer("towards", torch.zeros(size, 0, dtype=torch.double))  # (features, classes)
        self.register_buffer("weight", torch.zeros(size, 0))
        self.register_buffer("images", torch.zeros((), dtype=torch.long))  # that were seen

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
        """The shrinkage that was used: ten times as much, or more, where the sums have no factor with this one."""
        eye = torch.eye(len(self.gram), dtype=self.gram.dtype, device=self.gram.device)
        factor, failed = torch.linalg.cholesky_ex(self.gram + shrinkage * eye)
        while failed and shrinkage < self.gram.diagonal().max():
            shrinkage *= 10
            factor, failed = torch.linalg.cholesky_ex(self.gram + shrinkage * eye)
        self.weight = torch.cholesky_solve(self.towards, factor).float()
        return shrinkage

    def forward(self, given: Tensor) -> Tensor:
        return self.lift(given) @ self.weight

    def best(self, given: Tensor, labels: Tensor, share: float = 0.8, *, alone: bool) -> float:
        """The shrinkage with which the first `share` of these images explain the others best, in squares.

        `alone`: from these images only, else together with the sums over all that was seen before.
        """
        lifted = self.lift(given).double()
        wanted = one_hot(labels, self.towards.shape[1]).double()
        cut = int(share * len(lifted))
        if not cut:  # of a single image nothing can be foretold
            return 1.0
        if alone:
            answers = explained(lifted[:cut], wanted[:cut], lifted[cut:], SHRINKAGES)
            return SHRINKAGES[int(torch.stack([(answer - wanted[cut:]).square().mean() for answer in answers]).argmin())]
        gram, towards = self.gram + lifted[:cut].T @ lifted[:cut], self.towards + lifted[:cut].T @ wanted[:cut]
        best, least = 0.0, math.inf
        for shrinkage in reversed(SHRINKAGES):  # from the largest down, since each costs a factorisation
            error = (lifted[cut:] @ solved(gram, towards, shrinkage) - wanted[cut:]).square().mean().item()
            if error < least:
                best, least = shrinkage, error
            elif shrinkage < best / 10:  # it has risen twice
                break
        return best

    def near_its_peak(self, shrinkage: float) -> bool:
        """Whether there are about as many images as features and next to no shrinkage: such a solution follows the noise."""
        features = len(self.gram)
        many = (self.images > 0.5 * features) & (self.images < 2 * features)
        return bool(many & (shrinkage * features < 1e-6 * self.gram.trace()))


def solved(gram: Tensor, towards: Tensor, shrinkage: float) -> Tensor:
    """(gram + λI)⁻¹ towards; not a number where there is no factor."""
    factor, failed = torch.linalg.cholesky_ex(gram + shrinkage * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    return torch.where(failed > 0, torch.nan, torch.cholesky_solve(towards, factor))


def explained(seen: Tensor, wanted: Tensor, others: Tensor, shrinkages: Iterable[float]) -> list[Tensor]:
    """others (seenᵀ seen + λI)⁻¹ seenᵀ wanted for each λ, from one eigendecomposition: of seen seenᵀ where that is smaller."""
    wide = seen.shape[1] > len(seen)
    values, vectors = torch.linalg.eigh(seen @ seen.T if wide else seen.T @ seen)
    left, right = (others @ seen.T @ vectors, vectors.T @ wanted) if wide else (others @ vectors, vectors.T @ (seen.T @ wanted))
    return [left @ (right / (values.clamp_min(0)[:, None] + shrinkage)) for shrinkage in shrinkages]
