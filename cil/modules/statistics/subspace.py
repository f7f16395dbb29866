"""Bases of the directions that old inputs take up, and the projection of rows out of them.

Two families. `extend` is gradient projection memory in feature space (the text of PGP; Saha et al. 2021). `scores` and
`extend_by_scores` are what PGP's released code does: it works in the space of samples, on Gram matrices whose singular
values it squares again. Both stay thin: no (images, images) product is decomposed.
"""

import torch
from torch import Tensor


def held(rows: Tensor, projector: Tensor) -> Tensor:
    """The part of (rows, heads, width) that `projector` (heads, width, width), F·Fᵀ of each head, holds."""
    return (rows.transpose(0, 1) @ projector).transpose(0, 1)


def projector(bases: list[Tensor]) -> Tensor:
    """(heads, width, width) from a (width, rank) basis a head."""
    return torch.stack([basis @ basis.T for basis in bases])


def extend(basis: Tensor, gram: Tensor, energy: float) -> Tensor:
    """Add the directions of `gram` = Σ xᵀx that are missing for a share of `energy` of its trace to be in the basis.

    (width, rank), (width, width) → (width, at least rank), orthonormal; of what is left, largest eigenvalues first.
    """
    left = gram - basis @ (basis.T @ gram)
    left = left - (left @ basis) @ basis.T
    values, vectors = torch.linalg.eigh((left + left.T) / 2)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    missing = energy * gram.trace() - (gram.trace() - left.trace())
    before = values.cumsum(0) - values  # what those before it have added
    new = min(int((before < missing).sum()), len(gram) - basis.shape[1])
    return torch.linalg.qr(torch.cat([basis, vectors[:, :new]], 1))[0] if new else basis


def scores(rows: Tensor, components: int) -> Tensor:
    """Principal component scores, (rows, components): centred, exact, in each column the largest entry in size positive.

    That is scikit-learn's sign rule up to 1.4, on which the released code's sums of scores depend. Its solver there was the
    randomised one, of which this is the limit.
    """
    rows = rows - rows.mean(0)
    wide = rows.shape[0] <= rows.shape[1]
    gram = torch.zeros(min(rows.shape), min(rows.shape), dtype=torch.float64, device=rows.device)
    for part in rows.split(1 << 14, 1) if wide else rows.split(1 << 14, 0):
        part = part.double()
        gram += part @ part.T if wide else part.T @ part
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0)[:components].clamp_min(0), vectors.flip(1)[:, :components]
    found = vectors * values.sqrt() if wide else rows.double() @ vectors
    largest = found.gather(0, found.abs().argmax(0, keepdim=True))
    return found * largest.sign()


def extend_by_scores(basis: Tensor | None, scores: Tensor, energy: float) -> Tensor:
    """The released update, for G = S·Sᵀ with S (images, components), without forming G.

    At first (no basis) directions are taken while their share of Σσ(G)², summed, stays below `energy`: the one that crosses
    is left out, and there may be none. Later G less its part in the basis is decomposed, and directions are added until the
    share of both passes `energy`: the one that crosses is in. σ(G) are squares of S's singular values, so shares are of
    their fourth powers.
    """
    if basis is None:
        left, values, _ = torch.linalg.svd(scores, full_matrices=False)
        shares = values.pow(4) / values.pow(4).sum()
        return left[:, : int((shares.cumsum(0) < energy).sum())]
    total = (scores.T @ scores).square().sum()  # Σσ(G)², as G and Sᵀ·S share theirs
    outer, upper = torch.linalg.qr(scores - basis @ (basis.T @ scores))
    lower = torch.linalg.qr(scores, mode="r")[1]
    left, values, _ = torch.linalg.svd(upper @ lower.T)  # of G − F·Fᵀ·G = outer · (upper · lowerᵀ) · an orthonormal matrix
    shares = values.square() / total
    new = int((1 - shares.sum() + shares.cumsum(0) - shares < energy).sum())
    return torch.cat([basis, outer @ left[:, :new]], 1)[:, : len(scores)]
