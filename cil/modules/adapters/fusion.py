"""One matrix out of an old and a new one."""

import torch
from torch import Tensor

PLAIN = {"average": 0.5, "new": 1.0, "old": 0.0}  # the weight of the new matrix


def decomposed(old: Tensor, new: Tensor, bias: float) -> Tensor:
    """RAPF: in the left basis of the old matrix each coordinate keeps a share of its change, at least `bias`.

    Those that moved most keep all of it.
    """
    basis = torch.linalg.svd(old)[0]
    change = basis.T @ (new - old)
    most = change.abs().max()
    if most == 0:
        return old.clone()
    return old + basis @ ((change.abs() / most + bias).clamp_max(1) * change)


def low_rank(matrix: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """(rows, rank) and (rank, columns) whose product has at least this share of the squared singular values."""
    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    share = values.square().cumsum(0)
    rank = min(int((share < energy * share[-1]).sum()) + 1, len(values))
    root = values[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]


def stacked(old: Tensor, new: Tensor, weight: float, energy: float) -> tuple[Tensor, tuple[int, int]]:
    """AWPF: the factors side by side, so that their product has no cross terms; and the rank of each matrix.

    With all of the energy this is the weighted mean, with `weight` for the new matrix.
    """
    (tall_old, wide_old), (tall_new, wide_new) = low_rank(old, energy), low_rank(new, energy)
    tall, wide = torch.cat([(1 - weight) * tall_old, weight * tall_new], 1), torch.cat([wide_old, wide_new])
    return tall @ wide, (len(wide_old), len(wide_new))
