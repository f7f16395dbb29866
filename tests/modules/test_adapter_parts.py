"""The parts of RAPF and AWPF against the check values of their specification (section 7), and what must hold of any matrix."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cil.modules.adapters.fusion import KERNELS, decomposed, discrepancy, low_rank, separability, shift, stacked, trust
from cil.modules.statistics.gaussians import Gaussians, cholesky, placed, shrunk, statistics
from tests.reference import close


def fill(shape: tuple[int, ...], a: float, b: float, c: float) -> torch.Tensor:
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return (a * torch.sin(b * k * k + c)).view(shape)


OLD = fill((4, 4), 1, 0.37, 0.3)
NEW = OLD + fill((4, 4), 0.2, 0.53, 0.5)
DECOMPOSED = {
    0.5: "0.401774 0.790663 1.081666 -0.633115 0.009513 0.052763 1.005667 -0.211998 -0.895003 -1.023269 -0.407535 1.081341 "
    "0.019249 0.173798 -0.656505 1.034674",
    0.6: "0.396811 0.791131 1.080713 -0.634519 0.016150 0.054745 1.005010 -0.212188 -0.894578 -1.021363 -0.407478 1.081117 "
    "0.022842 0.172862 -0.658259 1.033112",
    0.7: "0.393252 0.791600 1.079760 -0.635923 0.020888 0.056727 1.004353 -0.212378 -0.893103 -1.019457 -0.407420 1.080893 "
    "0.025255 0.171927 -0.660012 1.031550",
}
STACKED = {
    1.0: (4, "0.333874 0.689570 1.018058 -0.537102 -0.028723 -0.050816 0.922599 -0.329527"
             " -0.902913 -0.953064 -0.396023 0.963504 "
             "-0.092951 0.066984 -0.586029 0.984876"),
    0.99: (3, "0.382342 0.656839 1.027841 -0.523151 -0.085776 -0.012163 0.910701 -0.346638"
              " -0.870858 -0.974773 -0.389364 0.973072 "
              "-0.118288 0.084321 -0.591834 0.976337"),
    0.9: (2, "0.385865 0.471426 0.847672 -0.814653 -0.092132 -0.083605 0.840500 -0.466144"
             " -0.872516 -1.019358 -0.432941 0.900642 "
             "-0.118987 -0.153243 -0.823206 0.597988"),
}  # fmt: skip


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


# --- fusion -----------------------------------------------------------------------------------------------------------


def test_the_matrices_are_the_specifications():
    close(torch.linalg.svdvals(OLD), [2.230299, 1.027389, 0.616625, 0.101434], 1e-6)
    close((torch.linalg.svd(OLD)[0].T @ (NEW - OLD)).abs().max(), 0.245799, 1e-6)


@pytest.mark.parametrize("bias", DECOMPOSED)
def test_decomposed_fusion(bias):
    close(decomposed(OLD, NEW, bias).flatten(), numbers(DECOMPOSED[bias]), 1e-6)


@pytest.mark.parametrize("energy", STACKED)
def test_stacked_fusion(energy):
    merged, ranks = stacked(OLD, NEW, 0.4, energy)
    rank, wanted = STACKED[energy]
    assert ranks == (rank, rank)
    close(merged.flatten(), numbers(wanted), 1e-6)


def released(old: torch.Tensor, new: torch.Tensor, bias: float) -> torch.Tensor:
    """The steps of the released code, one by one."""
    u, s, vt = torch.linalg.svd(old)
    p_new, p_old = u.T @ new, s.diag() @ vt
    d = (p_new - p_old).abs()
    mask = (d / d.max() + bias).clamp_max(1)
    return u @ (p_new * mask + p_old * (1 - mask))


seeds, widths, shares = st.integers(0, 2**31), st.integers(2, 12), st.floats(0, 1)


def drawn(seed: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, width, width, generator=random, dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(seeds, widths, shares)
def test_decomposed_fusion_is_that_of_the_released_code(seed, width, bias):
    old, new = drawn(seed, width)
    torch.testing.assert_close(decomposed(old, new, bias), released(old, new, bias))
    torch.testing.assert_close(decomposed(old, new, 1.0), new)
    assert torch.equal(decomposed(old, old, bias), old)


@settings(max_examples=40, deadline=None)
@given(seeds, widths, shares, st.floats(0.05, 1))
def test_stacked_fusion_loses_nothing_of_what_it_should_keep(seed, width, weight, energy):
    old, new = drawn(seed, width)
    torch.testing.assert_close(stacked(old, new, weight, 1.0)[0], (1 - weight) * old + weight * new)
    torch.testing.assert_close(stacked(old, old, weight, 1.0)[0], old)  # equal matrices: the identity
    merged, (rank, _) = stacked(old, old, weight, energy)
    assert (old - merged).square().sum() <= (1 - energy) * old.square().sum() + 1e-9
    values = torch.linalg.svdvals(old).square()
    assert rank == 1 or values[: rank - 1].sum() < energy * values.sum()  # one less would be too few
    tall, wide = low_rank(old, energy)
    assert tall.shape == (width, rank) and wide.shape == (rank, width)


# --- statistics -------------------------------------------------------------------------------------------------------

FEATURES = fill((5, 3), 1, 0.41, 0.2)


def test_statistics_and_samples():
    mean, covariance = statistics(FEATURES)
    close(mean, [0.309058, 0.407591, -0.053196], 1e-6)
    close(covariance, [[0.377153, -0.078790, 0.179751], [-0.078790, 0.237357, 0.262601], [0.179751, 0.262601, 0.895795]], 1e-6)
    wide = shrunk(covariance)
    close(wide, [[0.880587, 0.042397, 0.300939], [0.042397, 0.740791, 0.383788], [0.300939, 0.383788, 1.399230]], 1e-6)
    factor, ridge = cholesky(covariance)
    close(factor, [[0.614127, 0, 0], [-0.128296, 0.469996, 0], [0.292694, 0.638627, 0.634256]], 1e-6)
    assert ridge == 1e-4
    noise = torch.tensor([1, -1, 0.5], dtype=torch.float64)
    close(placed(noise, mean, factor), [0.923186, -0.190701, -0.082001], 1e-6)
    close(placed(noise, mean, cholesky(wide)[0]), [1.247455, -0.406734, 0.365037], 1e-6)


def test_statistics_are_torchs():
    torch.testing.assert_close(statistics(FEATURES, ridge=0)[1], torch.cov(FEATURES.T))
    one = statistics(FEATURES[:1])
    torch.testing.assert_close(one[1], 1e-4 * torch.eye(3, dtype=torch.float64))


def test_a_ridge_grows_until_there_is_a_factor():
    """Eigenvalues 3 and -1 (less the ridge, which it has already): ten times more, until the smaller is above zero."""
    factor, ridge = cholesky(torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64))
    assert ridge == pytest.approx(10) and torch.isfinite(factor).all()


@pytest.mark.parametrize("shrinkage", [False, True])
def test_samples_have_the_statistics_of_the_class(shrinkage):
    torch.manual_seed(0)
    kept = Gaussians(3, shrinkage=shrinkage)
    kept.grow(2)
    kept.remember(FEATURES.float(), torch.ones(len(FEATURES)), range(1, 2))
    mean, covariance = statistics(FEATURES)
    samples = kept.sample(torch.tensor([1]), 200_000)[0].double()
    close(samples.mean(0), mean, 0.01)
    close(torch.cov(samples.T), shrunk(covariance) if shrinkage else covariance, 0.02)


# --- balance ----------------------------------------------------------------------------------------------------------

FIRST = F.normalize(fill((6, 3), 1, 0.41, 0.2), dim=1)
SECOND = F.normalize(fill((6, 3), 1, 0.47, 0.9), dim=1)
LABELS = torch.arange(4).repeat_interleave(3)


def test_balance():
    squared = discrepancy(FIRST, SECOND)
    close(squared, 0.0797924275, 1e-9)
    moved, parted = shift(squared), separability(torch.cat([FIRST, SECOND]), LABELS)
    close(torch.tensor(moved), 0.1997403659, 1e-7)
    close(torch.tensor(parted), 0.2112782846, 1e-7)
    for weight, tau in ((0.3, 0.0979075749), (0.5, 0.2020718545), (0.7, 0.3714275805)):
        assert trust(moved, parted, weight) == pytest.approx(tau, abs=1e-9)


def plain_discrepancy(x: torch.Tensor, y: torch.Tensor) -> float:
    both = [*x, *y]
    distances = [[float((a - b).square().sum()) for b in both] for a in both]
    count = len(both)
    base = sum(map(sum, distances)) / (count**2 - count) / 2 ** (KERNELS // 2)
    kernel = [[sum(math.exp(-d / (base * 2**i)) for i in range(KERNELS)) / KERNELS for d in row] for row in distances]
    n, m = len(x), len(y)
    own = sum(kernel[i][j] for i in range(n) for j in range(n)) / n**2
    other = sum(kernel[i][j] for i in range(n, count) for j in range(n, count)) / m**2
    return own + other - 2 * sum(kernel[i][j] for i in range(n) for j in range(n, count)) / (n * m)


def test_discrepancy_against_a_loop_and_its_ends():
    torch.manual_seed(0)
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64) + 1
    close(discrepancy(x, y), plain_discrepancy(x, y), 1e-12)
    assert shift(discrepancy(x, x)) == pytest.approx(0, abs=1e-7)
    assert shift(discrepancy(x, x + 1)) < shift(discrepancy(x, x + 2)) < shift(discrepancy(x, x + 9)) <= 1


def test_separability_of_points_and_of_one_cloud():
    centres = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    labels = torch.arange(2).repeat_interleave(50)
    torch.manual_seed(0)
    noise = torch.randn(100, 2, dtype=torch.float64)
    found = [separability(centres[labels] + width * noise, labels) for width in (0, 0.1, 0.5, 5)]
    assert found[0] == pytest.approx(1) and found == sorted(found, reverse=True) and found[-1] < 0.1


@settings(max_examples=100, deadline=None)
@given(shares, shares, shares, shares)
def test_trust_is_monotone_in_what_it_should_be(moved, parted, weight, more):
    at = trust(moved, parted, weight)
    assert 0 <= at <= 1
    high = [max(value, more) for value in (moved, parted, weight)]
    assert trust(high[0], parted, weight) >= at - 1e-12  # tasks farther apart: the new matrix counts more
    assert trust(moved, high[1], weight) >= at - 1e-12  # classes part better under it: too
    assert trust(moved, parted, high[2]) >= at - 1e-12


def test_the_ends_of_trust():
    assert trust(0.0, 1.0, 0.5) == 0 and trust(0.3, 1.0, 0.5) == 1
    assert trust(0.3, 0.4, 0.0) == 0 and trust(0.3, 0.4, 1.0) == 1
