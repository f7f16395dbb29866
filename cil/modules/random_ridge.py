"""A ridge regression on random features, solved from sums: RanPAC's classifier."""

import torch
from torch import Tensor, nn

SHRINKAGES = tuple(10.0**power for power in range(-8, 9))


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

    def grow(self, classes: int) -> None:
        for name in ("towards", "weight"):
            old = getattr(self, name)
            setattr(self, name, torch.cat([old, old.new_zeros(len(old), classes - old.shape[1])], 1))

    def lift(self, given: Tensor) -> Tensor:
        return (given @ self.directions).relu() if self.directions.shape[1] else given

    def see(self, given: Tensor, labels: Tensor) -> None:
        lifted = self.lift(given).double()
        self.gram += lifted.T @ lifted
        self.towards.index_add_(1, labels, lifted.T)

    def solve(self, shrinkage: float) -> None:
        self.weight = solved(self.gram, self.towards, [shrinkage])[0].float()

    def forward(self, given: Tensor) -> Tensor:
        return self.lift(given) @ self.weight

    def best(self, given: Tensor, labels: Tensor, share: float = 0.8) -> float:
        """The shrinkage with which the first `share` of these images explain the others best, in squares."""
        lifted = self.lift(given).double()
        wanted = torch.nn.functional.one_hot(labels, self.towards.shape[1]).double()
        cut = int(share * len(lifted))
        gram, towards = lifted[:cut].T @ lifted[:cut], lifted[:cut].T @ wanted[:cut]
        errors = [((lifted[cut:] @ weight - wanted[cut:]) ** 2).mean() for weight in solved(gram, towards, SHRINKAGES)]
        return SHRINKAGES[int(torch.stack(errors).argmin())]


def solved(gram: Tensor, towards: Tensor, shrinkages) -> list[Tensor]:
    """(gram + λI)⁻¹ towards for each λ, from one eigendecomposition where there are several."""
    if len(shrinkages) == 1:
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        return [torch.cholesky_solve(towards, torch.linalg.cholesky(gram + shrinkages[0] * eye))]
    values, vectors = torch.linalg.eigh(gram)
    turned = vectors.T @ towards
    return [vectors @ (turned / (values.clamp_min(0)[:, None] + shrinkage)) for shrinkage in shrinkages]
