"""Single classes on the report page: a confusion matrix and accuracies from the predictions of runs."""

import re

import numpy as np
import pytest

from cil.report import classes, svg
from cil.report.collect import collect, rows
from cil.report.numbers import Numbers
from cil.report.page import page
from cil.runs import predictions
from cil.runs.run_folder import read_matrices
from tests.report.test_report_page import HOSTILE, finish, predict


@pytest.fixture
def runs(tmp_path):
    """Two seeds of three tasks; 100 test images a task."""
    found = [finish(tmp_path, "finetune", "d0", seed, tasks=3, quality=80.0) for seed in range(2)]
    for run in found:
        predict(run)
    return found


def test_seeds_are_added_and_averaged(runs):
    found = classes.of_runs([run.path for run in runs])
    assert found.seeds == 2 and found.counts.sum() == 600 and found.tasks == [0, 0, 1, 1, 2, 2]
    correct = np.mean([read_matrices(run.path)["class_il"].percent for run in runs], 0)
    assert found.percent.reshape(3, 3, 2).mean(2) == pytest.approx(correct, nan_ok=True)
    assert found.counts.trace() == 2 * correct[2].sum()


def test_seeds_with_other_class_orders_are_not_added(runs, tmp_path):
    other = finish(tmp_path, "finetune", "d0", 2, tasks=3)
    predict(other, names=list("fedcba"))
    assert classes.of_runs([run.path for run in (*runs, other)]).seeds == 2
    assert classes.of_runs([other.path, runs[0].path]).names == list("fedcba")


def test_a_run_without_predictions_shows_nothing_and_a_damaged_one_says_so(runs, tmp_path):
    assert classes.details([finish(tmp_path, "joint", "d1", 0).path]) == ""
    predictions.place(runs[0].path, 1).write_bytes(b"torn")
    assert "Its predictions are not shown: " in classes.details([run.path for run in runs])


def test_the_page_says_what_a_class_is_taken_for(runs, tmp_path):
    found = collect(tmp_path)[0]
    text = page(rows(found), Numbers(tmp_path, found), title="t")
    assert HOSTILE not in text and text.count('class="classes"') == 1
    table = re.search(r"most often taken for<tbody>(.*?)</table>", text, re.S)[1]
    lines = [re.split(r"<t[hd][^>]*>", line)[1:] for line in table.split("<tr>")[1:]]
    assert len(lines) == 6 and [float(line[2]) for line in lines] == sorted(float(line[2]) for line in lines)
    first = next(line for line in lines if line[0].startswith("1 class 0 "))
    whole = classes.of_runs([run.path for run in runs])
    assert first[1:4] == ["1", f"{whole.percent[2, 0]:.1f}", f"{whole.percent[0, 0]:.1f}"] and first[4].startswith("class 1 ")
    assert 'class="matrix"><thead><tr><th scope="col"><span>class' in text, "six classes are a table with numbers"


def test_many_classes_are_drawn_with_lines_between_tasks(tmp_path):
    run = finish(tmp_path, "finetune", "d0", 0, tasks=10)
    predict(run)
    drawn = classes.details([run.path])
    assert '<div class="confusion"><svg class="heat" viewBox="0 0 20 20"' in drawn and drawn.count('class="rule"') == 9


def test_a_heat_map_leaves_out_what_is_not_measured():
    drawn = svg.heat(np.array([[np.nan, 5.0, 95.0]]), "a & b", [1])
    assert "a &amp; b" in drawn and '<path class="h0" d="M1 0h1v1h-1z"/><path class="h9" d="M2 0h1v1h-1z"/>' in drawn
    assert 'viewBox="0 0 3 1" preserveAspectRatio="none"' in drawn and 'class="rule" d="M0 1H3M1 0V1"' in drawn
