"""Benchmark of the basis update in gradient projection, against the released code's form, which decomposes S·Sᵀ."""

from collections.abc import Iterator

import torch
from torch import Tensor

from cil.bench.harness import figures, interleaved
from cil.modules.statistics.subspace import extend_by_scores

IMAGES, COMPONENTS, RANK, ENERGY = 768, 50, 20, 0.5  # sizes for ViT-B/16; RANK directions are in the basis already


def subspace(rounds: int) -> Iterator[dict]:
    basis, scores = example()
    call, reference = (lambda f=f: f(basis, scores, ENERGY) for f in (extend_by_scores, by_product))
    times = interleaved(call, reference, rounds, torch.device("cpu"))
    yield {
        "row": "subspace", "what": f"basis update, {IMAGES} images, {COMPONENTS} components",
        "against": "time of the same update on the images x images product", "ratio_cpu": figures(times.ratio_cpu),
        "ratio_wall": figures(times.ratio_wall), "milliseconds": figures(1000 * times.seconds), "rounds": rounds,
    }  # fmt: skip


def example() -> tuple[Tensor, Tensor]:
    """A basis (IMAGES, RANK) and scores (IMAGES, COMPONENTS) whose columns shrink as those of photographs do; fixed seed."""
    random = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(IMAGES, RANK, dtype=torch.float64, generator=random))[0]
    scores = torch.randn(IMAGES, COMPONENTS, dtype=torch.float64, generator=random)
    return basis, scores * torch.logspace(2, 0, COMPONENTS, dtype=torch.float64)


def by_product(basis: Tensor | None, scores: Tensor, energy: float) -> Tensor:
    """Reference for `extend_by_scores` that works on G = S·Sᵀ, as the released code does."""
    product = scores @ scores.T
    if basis is None:
        left, values, _ = torch.linalg.svd(product)
        shares = values.square() / values.square().sum()
        return left[:, : int((shares.cumsum(0) < energy).sum())]
    total = torch.linalg.svdvals(product).square().sum()
    left, values, _ = torch.linalg.svd(product - basis @ (basis.T @ product))
    reached, new = (total - values.square().sum()) / total, 0
    while reached < energy:
        reached, new = reached + values[new].square() / total, new + 1
    return torch.cat([basis, left[:, :new]], 1)[:, : len(scores)]
