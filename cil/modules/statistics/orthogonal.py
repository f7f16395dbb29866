"""Orthogonal initialisation of new parameters, and the orthogonality loss (CODA-Prompt)."""

import torch
from torch import Tensor


def gram_schmidt(drawn: Tensor, old: Tensor) -> Tensor:
    """Make the `drawn` rows, (new, …), orthonormal and orthogonal to the `old` rows, (old, …).

    Rows of any shape are treated as vectors; there must be at least as many dimensions as rows. Old rows need not be
    orthogonal to each other, since training changes them (the authors' code assumes that they are).
    """
    basis, triangle = torch.linalg.qr(torch.cat([old.flatten(1), drawn.flatten(1)]).T)
    return (basis * triangle.diagonal().sign()).T[len(old) :].reshape(drawn.shape)


def crooked(rows: Tensor) -> Tensor:
    """Return the mean of (M Mᵀ − I)², which is 0 if the rows are orthonormal."""
    flat = rows.flatten(1)
    return (flat @ flat.T - torch.eye(len(flat), dtype=flat.dtype, device=flat.device)).square().mean()
