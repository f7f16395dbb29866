import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cil.metrics import AccuracyMatrix, impossible, transfer_between_runs

WORKED = AccuracyMatrix.of_percents([[90], [92, 85], [60, 86, 88]])  # the spec's section 10


@pytest.mark.parametrize(
    ("definition", "value"),
    [("average", 78.0), ("incremental_average", 85.5), ("forgetting", 15.5), ("forgetting_with_last", 16.0),
     ("backward_transfer", -14.5), ("step_drops", 4.667)],
)  # fmt: skip
def test_worked_numbers_of_the_spec(definition, value):
    assert getattr(WORKED, definition)() == pytest.approx(value, abs=5e-4)


def test_averages_by_task_and_by_sample_differ_for_unequal_tests():
    matrix = AccuracyMatrix.of_percents([[100], [50, 100]], totals=[30, 10])
    assert matrix.average() == 75.0
    assert matrix.pooled_average() == 62.5
    assert matrix.incremental_average() == 87.5
    assert matrix.pooled_incremental_average() == 81.25


def test_forward_transfer_reads_above_the_diagonal():
    matrix = AccuracyMatrix.of_percents([[90, 30, 10], [80, 85, 20], [70, 80, 90]])
    assert matrix.forward_transfer([0, 10, 10]) == pytest.approx(15.0)  # ((30 − 10) + (20 − 10)) / 2
    assert matrix.after(0) == 90  # …and no average does


def test_transfer_between_runs_of_the_published_tables():
    attriclip = transfer_between_runs(second_after_first=82.3, second_alone=81.4, first_after_second=90.3, first_alone=83.3)
    assert attriclip == pytest.approx((0.9, 7.0))
    icarl = transfer_between_runs(second_after_first=49.7, second_alone=49.5, first_after_second=34.5, first_alone=59.5)
    assert icarl.backward == pytest.approx(-25.0)  # the slides' −15.2 is a misprint


def test_one_task_has_no_forgetting():
    matrix = AccuracyMatrix.of_percents([[91]])
    assert matrix.average() == 91
    assert math.isnan(matrix.forgetting()) and math.isnan(matrix.backward_transfer())


def test_an_unfinished_run_is_measured_at_its_last_row():
    matrix = AccuracyMatrix([100] * 5)
    matrix.set_row(0, [90])
    matrix.set_row(1, [60, 80])
    assert (matrix.learned, matrix.average(), matrix.forgetting()) == (2, 70, 30)


def test_lint_refuses_the_impossible_row_of_pgp_table_5():
    assert "at most 21.82" in impossible(33.61, 86.87, tasks=10)  # FT, 10-split CIFAR100
    for acc, forgetting in [(47.01, 33.27), (60.69, 27.77), (66.11, 35.24), (81.42, 17.31), (61.06, 39.87), (83.94, 14.55)]:
        assert impossible(acc, forgetting, tasks=10) is None


@given(
    st.integers(2, 6).flatmap(lambda n: st.lists(st.lists(st.floats(0, 100), min_size=n, max_size=n), min_size=n, max_size=n))
)
def test_no_measured_matrix_is_impossible(square):
    matrix = AccuracyMatrix.of_percents([row[: t + 1] for t, row in enumerate(square)])
    assert impossible(matrix.average(), matrix.forgetting(), tasks=len(square)) is None
    assert matrix.forgetting_with_last() >= max(matrix.forgetting(), 0) - 1e-9
    assert -matrix.backward_transfer() <= matrix.forgetting_with_last() + 1e-9


def test_a_bound_that_is_measured_once_has_an_average_but_no_forgetting():
    matrix = AccuracyMatrix([100] * 3)
    matrix.set_row(2, [90, 80, 70])
    assert (matrix.learned, matrix.average()) == (3, 80)
    assert math.isnan(matrix.forgetting()) and math.isnan(matrix.incremental_average())
