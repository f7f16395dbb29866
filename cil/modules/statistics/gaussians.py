"""A normal distribution of the features of each class, from which pseudo-features are sampled."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from cil.common.errors import UserError
from cil.common.transfer import sent
from cil.modules.heads.cosine import exact

RIDGE = 1e-4  # on the diagonal: a covariance is singular if there are fewer images than dimensions


class Gaussians(nn.Module):
    """Stores the mean and the Cholesky factor of the covariance of each class seen."""

    means: Tensor  # (classes, width)
    factors: Tensor  # (classes, width, width)

    def __init__(self, width: int, *, shrinkage: bool, diagonal: bool = False) -> None:
        """`shrinkage`: move the covariance towards that of its mean entries. `diagonal`: keep the variances only."""
        super().__init__()
        self.shrinkage, self.diagonal = shrinkage, diagonal
        self.ridge = RIDGE  # the largest ridge that a class has needed
        self.register_buffer("means", torch.empty(0, width))
        self.register_buffer("factors", torch.empty(0, width, width))

    def grow(self, classes: int) -> None:
        new = classes - len(self.means)
        self.means = torch.cat([self.means, self.means.new_zeros(new, *self.means.shape[1:])])
        self.factors = torch.cat([self.factors, self.factors.new_zeros(new, *self.factors.shape[1:])])

    @torch.no_grad()
    def remember(self, features: Tensor, labels: Tensor, classes: range) -> None:
        """Store the statistics of these classes. `features`: (images, width)."""
        with exact(features):
            for label in classes:
                mean, covariance = statistics(features[labels == label].double())
                covariance = torch.diag(covariance.diagonal()) if self.diagonal else covariance
                factor, ridge = cholesky(shrunk(covariance) if self.shrinkage else covariance)
                self.means[label], self.factors[label], self.ridge = mean.float(), factor.float(), max(self.ridge, ridge)

    def sample(self, labels: Tensor, count: int, random: torch.Generator | None = None) -> Tensor:
        """Sample pseudo-features, (labels, count, width). `labels` are on the CPU; each class takes one matrix product."""
        noise = torch.randn(len(labels), count, self.means.shape[1], generator=random)  # CPU: a seed means the same on GPUs
        order = labels.argsort(stable=True)  # so that the samples of a class are consecutive
        grouped = sent(noise[order], self.means.device)
        ends = labels.bincount().cumsum(0).tolist()
        with exact(grouped):
            for label, (start, end) in enumerate(pairwise([0, *ends])):
                if start < end:
                    grouped[start:end] = placed(grouped[start:end], self.means[label], self.factors[label])
        return torch.empty_like(grouped).index_copy_(0, sent(order, grouped.device), grouped)


def statistics(features: Tensor, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """(images, width) → mean, and covariance plus ridge. For a single image the covariance is the ridge alone."""
    mean = features.mean(0)
    apart = features - mean
    return mean, apart.T @ apart / max(1, len(features) - 1) + ridge * identity(features)


def shrunk(covariance: Tensor, diagonal: float = 1.0, others: float = 1.0) -> Tensor:
    """Add `diagonal` times the mean variance to the diagonal, and to all other entries `others` times their non-zero mean."""
    rest = covariance - torch.diag(covariance.diagonal())
    shift = rest.sum() / rest.count_nonzero().clamp_min(1)
    one = identity(covariance)
    return covariance + diagonal * covariance.diagonal().mean() * one + others * shift * (1 - one)


def cholesky(covariance: Tensor) -> tuple[Tensor, float]:
    """Return the lower Cholesky factor, and the ridge, increased tenfold until there is a factor."""
    ridge = RIDGE
    while ridge < 1e6:
        factor, failed = torch.linalg.cholesky_ex(covariance + (ridge - RIDGE) * identity(covariance))
        if not failed:
            return factor, ridge
        ridge *= 10
    raise UserError("class features contain NaN or Inf; type machine.precision=fp32, or other weights")


def placed(noise: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Turn standard normal noise, (…, width), into samples of a class."""
    return mean + noise @ factor.T


def identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
