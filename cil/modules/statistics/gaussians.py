"""A normal distribution for each class, in the place of its images."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from cil.common.errors import UserError
from cil.common.transfer import sent
from cil.modules.heads.cosine import exact

RIDGE = 1e-4  # on the diagonal: a covariance has no full rank where images are fewer than dimensions


class Gaussians(nn.Module):
    """Mean and Cholesky factor of each class met; a factor is computed once, not at every draw."""

    def __init__(self, width: int, *, shrinkage: bool) -> None:
        super().__init__()
        self.shrinkage = shrinkage
        self.ridge = RIDGE  # the largest that a class has needed
        self.register_buffer("means", torch.empty(0, width))
        self.register_buffer("factors", torch.empty(0, width, width))

    def grow(self, classes: int) -> None:
        new = classes - len(self.means)
        self.means = torch.cat([self.means, self.means.new_zeros(new, *self.means.shape[1:])])
        self.factors = torch.cat([self.factors, self.factors.new_zeros(new, *self.factors.shape[1:])])

    def remember(self, label: int, features: Tensor) -> None:
        """(images, width) of one class."""
        mean, covariance = statistics(features.double())
        factor, ridge = cholesky(shrunk(covariance) if self.shrinkage else covariance)
        self.means[label], self.factors[label], self.ridge = mean.float(), factor.float(), max(self.ridge, ridge)

    def sample(self, labels: Tensor, count: int, random: torch.Generator | None = None) -> Tensor:
        """(labels, count, width) pseudo-features; one product for all of a class. `labels` lie on the CPU."""
        noise = torch.randn(len(labels), count, self.means.shape[1], generator=random)  # here: a seed means the same on a GPU
        order = labels.argsort(stable=True)  # of a class one behind another
        together = sent(noise[order], self.means.device)
        ends = labels.bincount().cumsum(0).tolist()
        with exact(together):
            for label, (start, end) in enumerate(pairwise([0, *ends])):
                if start < end:
                    together[start:end] = placed(together[start:end], self.means[label], self.factors[label])
        return torch.empty_like(together).index_copy_(0, sent(order, together.device), together)


def statistics(features: Tensor, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """(images, width) → mean, and covariance with the ridge; of a single image the ridge alone."""
    mean = features.mean(0)
    apart = features - mean
    return mean, apart.T @ apart / max(1, len(features) - 1) + ridge * identity(features)


def shrunk(covariance: Tensor) -> Tensor:
    """Every variance plus the mean variance, every other entry plus the mean of those that are not exactly zero."""
    rest = covariance - torch.diag(covariance.diagonal())
    shift = rest.sum() / rest.count_nonzero().clamp_min(1)
    one = identity(covariance)
    return covariance + covariance.diagonal().mean() * one + shift * (1 - one)


def cholesky(covariance: Tensor, ridge: float = RIDGE) -> tuple[Tensor, float]:
    """The lower factor, and the ridge with which there is one."""
    more = ridge
    while more < 1e6:
        factor, failed = torch.linalg.cholesky_ex(covariance + (more - ridge) * identity(covariance))
        if not failed:
            return factor, more
        more *= 10
    raise UserError("the features of a class are no numbers; type machine.precision=fp32, or other weights")


def placed(noise: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Standard normal (…, width) → samples of a class."""
    return mean + noise @ factor.T


def identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
