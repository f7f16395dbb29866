"""Bases of the subspaces of old inputs, and the projection onto them.

There are two ways to extend a basis. `extend` is gradient projection memory in feature space (the text of PGP; Saha et al.
2021). `scores` and `extend_by_scores` are PGP's released code: it works in sample space, on Gram matrices whose singular
values it squares again. Neither decomposes an (images, images) matrix.
"""

import torch
from torch import Tensor


def held(rows: Tensor, projector: Tensor) -> Tensor:
    """Project rows, (…, rows, heads, width), onto the subspaces; `projector` is F·Fᵀ of each head, (…, heads, width, width)."""
    return (rows.transpose(-3, -2) @ projector).transpose(-3, -2)


def projector(bases: list[Tensor]) -> Tensor:
    """Return F·Fᵀ of each head, (heads, width, width), from one basis F per head, (width, rank)."""
    return torch.stack([basis @ basis.T for basis in bases])


def gram(inputs: Tensor) -> Tensor:
    """Return Σ xᵀx of each head in double precision: (batch, rows, heads, width) → (heads, width, width)."""
    rows = inputs.flatten(0, -3).transpose(0, 1).double()
    return rows.transpose(1, 2) @ rows


def extend(basis: Tensor, gram: Tensor, energy: float) -> Tensor:
    """Add directions to a basis until it holds the share `energy` of the trace of `gram` = Σ xᵀx.

    (width, rank), (width, width) → (width, at least rank), orthonormal. The largest eigenvalues of the residual come first.
    """
    left = gram - basis @ (basis.T @ gram)
    left = left - (left @ basis) @ basis.T
    values, vectors = torch.linalg.eigh((left + left.T) / 2)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    missing = energy * gram.trace() - (gram.trace() - left.trace())
    before = values.cumsum(0) - values  # the energy of the eigenvectors before it
    new = min(int((before < missing).sum()), len(gram) - basis.shape[1])
    return torch.linalg.qr(torch.cat([basis, vectors[:, :new]], 1))[0] if new else basis


def scores(rows: Tensor, components: int) -> Tensor:
    """Return the principal component scores of centred rows, (rows, components).

    The largest absolute entry of each column is positive: scikit-learn's sign rule up to 1.4, on which the released code's
    sums of scores depend. It used the randomised solver, which approximates this exact result.
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
    """Extend a basis as the released code does, for G = S·Sᵀ with S (images, components), without forming G.

    Without a basis, directions are taken while their cumulative share of Σσ(G)² is below `energy`; the one that reaches it is
    left out, so there may be none. With a basis, the residual of G is decomposed, and directions are added until the share
    of basis and residual together reaches `energy`; the one that reaches it is included. σ(G) are the squares of S's singular
    values, so shares are of their fourth powers.
    """
    if basis is None:
        left, values, _ = torch.linalg.svd(scores, full_matrices=False)
        shares = values.pow(4) / values.pow(4).sum()
        return left[:, : int((shares.cumsum(0) < energy).sum())]
    total = (scores.T @ scores).square().sum()  # Σσ(G)²: G and Sᵀ·S have the same non-zero eigenvalues
    outer, upper = torch.linalg.qr(scores - basis @ (basis.T @ scores))
    lower = torch.linalg.qr(scores, mode="r")[1]
    left, values, _ = torch.linalg.svd(upper @ lower.T)  # of G − F·Fᵀ·G = outer · (upper · lowerᵀ) · an orthonormal matrix
    shares = values.square() / total
    new = int((1 - shares.sum() + shares.cumsum(0) - shares < energy).sum())
    return torch.cat([basis, outer @ left[:, :new]], 1)[:, : len(scores)]


def free(projector: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues, largest first, and eigenvectors of (1 − P) · gram · (1 − P), for a projector P or a stack."""
    left = gram - projector @ gram
    left = left - left @ projector
    values, vectors = torch.linalg.eigh((left + left.mT) / 2)
    return values.flip(-1).clamp_min(0), vectors.flip(-1)


def widened(projector: Tensor, gram: Tensor, energy: float, *, short: bool = False) -> Tensor:
    """As `extend`, with projectors F·Fᵀ in place of bases: (…, width, width), (…, width, width) → (…, width, width).

    `short`: leave out the direction with which the share is reached, but take at least one.
    """
    values, vectors = free(projector, gram)
    whole = gram.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
    reached = values.cumsum(-1) + whole - values.sum(-1, keepdim=True)
    new = (reached if short else reached - values) < energy * whole
    if short:
        new = new | (torch.arange(len(values[0]), device=values.device) == 0)
    kept = vectors * new[..., None, :]
    return projector + kept @ kept.mT


def before_corner(values: Tensor, *, smoothed: bool) -> int:
    """Return how many singular values are kept: those up to the corner, where the second difference is the largest.

    `smoothed`, as in NSP²'s released code: those before the corner. Of 128 values or more the corner is sought in values under
    a Gaussian of deviation 10, without the outermost 3 %.
    """
    count, skipped, line = len(values), 0, values
    if smoothed and count >= 128:
        skipped, reach = int(count * 0.03 / 2), 40
        bell = torch.arange(-reach, reach + 1, dtype=values.dtype, device=values.device).div(10).square().mul(-0.5).exp()
        padded = torch.cat([values[:reach].flip(0), values, values[-reach:].flip(0)])
        line = padded.unfold(0, len(bell), 1) @ (bell / bell.sum())
    bends = line[:-2] - 2 * line[1:-1] + line[2:]
    return skipped + int(bends[skipped : len(bends) - skipped].argmax()) + (1 if smoothed else 2)
