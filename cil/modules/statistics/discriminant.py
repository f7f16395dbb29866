"""Linear discriminant analysis on unit features: one mean for each class, one precision for all."""

import torch
from torch import Tensor


def precision(apart: Tensor) -> Tensor:
    """Return a shrunk inverse covariance, (width, width), of features minus their class means, (images, width).

    It is width · ((n − 1) C + tr(C) 1)⁻¹ for the covariance C of n images.
    """
    scatter = apart.mT @ apart
    ridge = scatter.trace() / max(1, len(apart) - 1)
    eye = torch.eye(len(scatter), dtype=scatter.dtype, device=scatter.device)
    return len(scatter) * torch.linalg.pinv(scatter + ridge * eye, hermitian=True)


def mixed(old: Tensor, new: Tensor, means: Tensor, classes: int) -> Tensor:
    """Return the precision over all classes, of which the last `classes` of `means` are new (BOFA's released code).

    Inverse matrices are averaged as if they were covariances, and the spread between the two sets of means is added.
    """
    known, seen = len(means) - classes, len(means)
    apart = means[:known].mean(0) - means[known:].mean(0)
    return (known * old + classes * new) / seen + known * classes / seen**3 * torch.outer(apart, apart)


def linear(means: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight, (classes, width), and the bias, (classes,), of the discriminants of equally likely classes."""
    weight = means @ precision
    return weight, -(weight * means).sum(1) / 2 - torch.tensor(float(len(means))).log()
