"""New parameters that begin at right angles to the old ones (CODA-Prompt)."""

import torch
from torch import Tensor


def gram_schmidt(drawn: Tensor, old: Tensor) -> Tensor:
    """(new, …) draws and (old, …) rows that stay → (new, …) of length 1, at right angles to the old and to each other.

    Rows are taken as vectors, whatever their shape; there must be at least as many dimensions as rows.
    """
    rows, basis = drawn.flatten(1), list(old.flatten(1))
    for row in rows:
        for _ in range(2):  # once more for what rounding left
            for other in basis:
                row = row - (row @ other) / (other @ other) * other
        basis.append(row / row.norm())
    return torch.stack(basis[len(old) :]).view_as(drawn) if len(drawn) else drawn


def crooked(rows: Tensor) -> Tensor:
    """How far rows are from right angles and length 1: the mean of (M Mᵀ − I)²."""
    flat = rows.flatten(1)
    return (flat @ flat.T - torch.eye(len(flat), dtype=flat.dtype, device=flat.device)).square().mean()
