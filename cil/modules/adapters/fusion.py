"""Merges an old and a new matrix into one, and weighs the new one."""

import torch
from torch import Tensor

PLAIN = {"average": 0.5, "new": 1.0, "old": 0.0}  # the weight of the new matrix
KERNELS = 5  # Gaussian kernels, each twice as wide as the previous one


def decomposed(old: Tensor, new: Tensor, bias: float) -> Tensor:
    """RAPF: in the left singular basis of the old matrix, each coordinate keeps a share of its change, at least `bias`.

    The share grows with the size of the change; the largest change is kept whole.
    """
    basis = torch.linalg.svd(old)[0]
    change = basis.T @ (new - old)
    largest = change.abs().max()
    if largest == 0:
        return old.clone()
    return old + basis @ ((change.abs() / largest + bias).clamp_max(1) * change)


def low_rank(matrix: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """Factor a matrix: (rows, rank) · (rank, columns) has at least the share `energy` of its squared singular values."""
    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    share = values.square().cumsum(0)
    rank = min(int((share < energy * share[-1]).sum()) + 1, len(values))
    root = values[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]


def stacked(old: Tensor, new: Tensor, weight: float, energy: float) -> tuple[Tensor, tuple[int, int]]:
    """AWPF: concatenate low-rank factors of both matrices, so that their product has no cross terms.

    Returns the merged matrix and the ranks of the old and the new one. `weight` is that of the new matrix; with `energy=1`
    the result is the weighted mean.
    """
    (tall_old, wide_old), (tall_new, wide_new) = low_rank(old, energy), low_rank(new, energy)
    tall, wide = torch.cat([(1 - weight) * tall_old, weight * tall_new], 1), torch.cat([wide_old, wide_new])
    return tall @ wide, (len(wide_old), len(wide_new))


def unified(versions: Tensor) -> Tensor:
    """TUNA: merge versions of a parameter, (tasks, …), entry by entry: the sign of their mean, the largest magnitude with it.

    Where the mean is 0, the sign is negative.
    """
    sign = torch.where(versions.mean(0) > 0, 1.0, -1.0)
    return sign * (versions * sign).amax(0).clamp_min(0)


def discrepancy(first: Tensor, second: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of two samples, (rows, width) each (the biased estimate).

    The kernel is the mean of `KERNELS` Gaussians with bandwidths around the mean squared distance.
    """
    both, n = torch.cat([first, second]), len(first)
    norms = both.square().sum(1)
    distances = (norms[:, None] + norms - 2 * both @ both.T).clamp_min(0).fill_diagonal_(0)
    widest = distances.sum() / (len(both) * (len(both) - 1)) * 2 ** (KERNELS - 1 - KERNELS // 2)
    kernel = torch.exp(-distances / widest)
    total = kernel.clone()
    for _ in range(KERNELS - 1):
        total += kernel.square_()  # half as wide
    total /= KERNELS
    return total[:n, :n].mean() + total[n:, n:].mean() - 2 * total[:n, n:].mean()


def shift(squared: Tensor) -> float:
    """Scale a squared discrepancy, which is at most 2, to a number from 0 (same distribution) to 1."""
    return float((squared.clamp_min(0) / 2).sqrt())


def separability(features: Tensor, labels: Tensor) -> float:
    """Return the between-class share of the total scatter (linear discriminant analysis), from 0 to 1."""
    classes, index, counts = labels.unique(return_inverse=True, return_counts=True)
    means = features.new_zeros(len(classes), features.shape[1]).index_add_(0, index, features) / counts[:, None]
    between = (counts * (means - features.mean(0)).square().sum(1)).sum()
    within = (features - means[index]).square().sum()
    return float(between / (between + within))


def trust(moved: float, parted: float, mmd_weight: float) -> float:
    """Return the weight of the new matrix: high if the tasks are far apart (`moved`) and the classes separable (`parted`)."""
    toward, against = mmd_weight * moved, (1 - mmd_weight) * (1 - parted)
    return toward / (toward + against) if toward else 0.0
