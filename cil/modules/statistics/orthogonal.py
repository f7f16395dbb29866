"""New parameters that begin at right angles to the old ones (CODA-Prompt)."""

import torch
from torch import Tensor


def gram_schmidt(drawn: Tensor, old: Tensor) -> Tensor:
    """(new, …) draws and (old, …) rows that stay → (new, …) of length 1, at right angles to the old and to each other.

    Rows are taken as vectors, whatever their shape; there must be at least as many dimensions as rows. Old rows need not be
    at right angles to each other, as they no longer are once they have learned (the authors' code takes them as if they were).
    """
    basis, triangle = torch.linalg.qr(torch.cat([old.flatten(1), drawn.flatten(1)]).T)
    return (basis * triangle.diagonal().sign()).T[len(old) :].reshape(drawn.shape)


def crooked(rows: Tensor) -> Tensor:
    """How far rows are from right angles and length 1: the mean of (M Mᵀ − I)²."""
    flat = rows.flatten(1)
    return (flat @ flat.T - torch.eye(len(flat), dtype=flat.dtype, device=flat.device)).square().mean()
