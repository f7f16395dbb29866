"""The algebra of gradient projection: reference values of the released code, and slow plain versions."""

import pytest
import torch

from cil.bench.subspace import by_product, example, subspace
from cil.modules.statistics.subspace import extend, extend_by_scores, held, projector, scores
from tests.reference import WIDTH, close, fill

TABLE = {  # energy → ranks after the first and second update, three entries of F·Fᵀ
    0.50: ((0, 1), (0.0092139234, 0.0014259918, -0.0255555443)),
    0.90: ((1, 2), (0.0723584558, 0.0470514636, 0.0159731076)),
    0.97: ((1, 3), (0.1014250649, 0.0993041323, 0.0111484767)),
}


def references() -> tuple[torch.Tensor, torch.Tensor]:
    scale, i, j = torch.tensor([3, 2, 1, 0.5]), torch.arange(WIDTH).double()[:, None], torch.arange(4).double()
    return fill(7, WIDTH, 4) * scale, fill(8, WIDTH, 4) * scale + torch.sin(0.3 * i**2 + j)


def test_the_released_singular_values():
    wanted = (69.69625575, 33.52146655, 8.61706235, 1.6728965), (152.27955707, 26.60147543, 12.36890612, 4.43562354)
    for rows, values in zip(references(), wanted, strict=True):
        close(torch.linalg.svdvals(rows @ rows.T)[:4], values, 1e-8)


@pytest.mark.parametrize("energy", TABLE)
def test_the_released_update(energy):
    (first, second), entries = TABLE[energy]
    basis = extend_by_scores(None, references()[0], energy)
    assert basis.shape == (WIDTH, first)
    basis = extend_by_scores(basis, references()[1], energy)
    assert basis.shape == (WIDTH, second)
    (matrix,) = projector([basis])
    close(torch.stack([matrix[0, 0], matrix[0, 1], matrix[5, 7]]), entries)


@pytest.mark.parametrize("energy", TABLE)
def test_the_thin_update_is_that_of_the_whole_product(energy):
    torch.manual_seed(0)
    thin = plain = None
    for _ in range(4):
        rows = torch.randn(40, 6, dtype=torch.float64) * torch.tensor([5, 3, 2, 1, 0.5, 0.1])
        thin, plain = extend_by_scores(thin, rows, energy), by_product(plain, rows, energy)
        close(projector([thin]), projector([plain]), 1e-10)


def test_the_thin_update_is_fifty_times_faster():
    """On as many images as the released code takes, with the components it takes; processor time."""
    basis, rows = example()
    (row,) = subspace(rounds=3)
    assert row["ratio_cpu"] < 1 / 50
    close(projector([extend_by_scores(basis, rows, 0.5)]), projector([by_product(basis, rows, 0.5)]), 1e-9)


def test_the_released_scores():
    i, j = torch.arange(12).double()[:, None], torch.arange(20).double()
    found = scores(fill(9, 12, 20) + torch.cos(0.2 * i**2 + 0.5 * j**2), 3)
    wanted = [-2.5875469581, -1.0734370666, -0.1894288597, -2.4835087804, -0.3910565877, 1.3629353346,
              -2.3338531068, 0.6913756604, -1.4362789720]  # fmt: skip
    close(found[:3], wanted, 1e-9)
    close(found.norm(dim=0), [10.1770363160, 5.9163451491, 4.0067633840], 1e-9)
    close(found[[7, 3, 4], [0, 1, 2]], [4.95941171, 3.31042155, 2.18821783], 1e-8)
    assert found.abs().argmax(0).tolist() == [7, 3, 4]


@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
def test_scores_are_those_of_the_singular_value_decomposition(shape):
    torch.manual_seed(1)
    rows = torch.randn(shape, dtype=torch.float64)
    centred = rows - rows.mean(0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    close(scores(rows, 4).abs(), (left * values)[:, :4].abs(), 1e-10)


# --- feature space ------------------------------------------------------------------------------------------------------


def grams(count: int, width: int = 8) -> list[torch.Tensor]:
    torch.manual_seed(2)
    rows = [torch.randn(30, width, dtype=torch.float64) * torch.logspace(1, -1, width).roll(3 * n) for n in range(count)]
    return [r.T @ r for r in rows]


@pytest.mark.parametrize("energy", [0.3, 0.5, 0.9, 0.99, 1.0])
def test_a_basis_holds_its_share_of_every_task_and_no_direction_more(energy):
    basis = torch.zeros(8, 0, dtype=torch.float64)
    for n, gram in enumerate(grams(3)):
        before = basis.shape[1]
        basis = extend(basis, gram, energy)
        close(basis.T @ basis, torch.eye(basis.shape[1]), 1e-10)
        for met in grams(3)[: n + 1]:
            assert (basis.T @ met @ basis).trace() >= energy * met.trace() - 1e-9
        if basis.shape[1] > before:  # one direction fewer would have been too few
            fewer = extend(basis[:, :before], gram, energy)[:, : basis.shape[1] - 1]
            assert (fewer.T @ gram @ fewer).trace() < energy * gram.trace()


def test_the_first_directions_are_the_leading_eigenvectors():
    (gram,) = grams(1)
    leading = torch.linalg.eigh(gram)[1].flip(1)
    basis = extend(torch.zeros(8, 0, dtype=torch.float64), gram, 0.99)
    close(projector([basis]), projector([leading[:, : basis.shape[1]]]), 1e-10)


def test_what_the_basis_holds_already_adds_nothing():
    (gram,) = grams(1)
    basis = extend(torch.zeros(8, 0, dtype=torch.float64), gram, 0.9)
    assert torch.equal(extend(basis, 3 * gram, 0.9), basis)


def test_rows_are_projected_head_by_head():
    torch.manual_seed(3)
    bases = [torch.linalg.qr(torch.randn(5, rank, dtype=torch.float64))[0] for rank in (2, 0, 5)]
    rows = torch.randn(7, 3, 5, dtype=torch.float64)
    left = rows - held(rows, projector(bases))
    for head, basis in enumerate(bases):
        close(left[:, head] @ basis, torch.zeros(7, basis.shape[1]), 1e-12)
    assert torch.equal(left[:, 1], rows[:, 1])
