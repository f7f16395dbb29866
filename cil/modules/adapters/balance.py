"""Weight of a new task's matrix, from the distance between two tasks and the separability of their classes (AWPF)."""

import torch
from torch import Tensor

KERNELS = 5  # Gaussian kernels, each twice as wide as the previous one


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
