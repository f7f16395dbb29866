"""Why two sweeps differ, or runs and a printed row."""

import json
import subprocess
import sys

import pytest

from cil.commands import why
from cil.common.errors import UserError
from cil.report.why import runs_below
from cil.runs.run_folder import RunDir
from tests import harness
from tests.commands.test_reproduce import finished_run

L2P = ["scenario=glyphs_10tasks", "method=l2p"]


@pytest.fixture
def sweeps(tmp_path):
    """Two seeds with other weights, rate and code; one of them has a method more."""
    for folder, more, correct in (("a", [], [[90], [70, 80]]), ("b", ["optim.lr=0.5"], [[80], [40, 60]])):
        for seed in (0, 1):
            finished_run(tmp_path / folder, [*L2P, *more, f"seed={seed}"], correct)
    finished_run(tmp_path / "b", ["scenario=glyphs_10tasks", "method=finetune"], [[90], [0, 90]])
    for file in (tmp_path / "b").rglob("summary.json"):
        summary = json.loads(file.read_text())
        summary["identity"]["weights_sha256"] = "cd34"
        RunDir(file.parent).finish(summary)
    return tmp_path / "a", tmp_path / "b"


def test_two_sweeps_are_told_apart_by_what_has_other_values(sweeps):
    told = "\n".join(why.answer(sweeps[0], str(sweeps[1])))
    assert "another checkpoint or backbone:\n  weights_sha256: ab12 → cd34" in told
    assert "optim.lr: 0.004 → 0.5" in told
    assert "ACC 75.00 ± 0.00 (2) → 50.00 ± 0.00 (2)  (-25.00)" in told and "not there → " in told
    assert "git_commit" not in told, "what both have is no reason"
    first, recipe = told.index("another checkpoint"), told.index("another recipe")
    assert first < recipe, "the likeliest first"


def test_equal_sweeps_have_no_reason(sweeps):
    assert "Nothing that can move a number differs." in "\n".join(why.answer(sweeps[0], str(sweeps[0] / "glyphs_10tasks")))


def test_runs_of_other_settings_are_neither_averaged_nor_compared(tmp_path):
    for folder, rates in (("a", ("0.1", "0.2")), ("b", ("0.1", "0.3"))):
        for rate, correct in zip(rates, (70, 50)):
            finished_run(tmp_path / folder, [L2P[0], "method=finetune", f"optim.lr={rate}"], [[90], [correct, 90]])
    told = "\n".join(why.answer(tmp_path / "a", str(tmp_path / "b")))
    assert "optim.lr=0.1: ACC 80.00 (1) → 80.00 (1)  (+0.00)" in told
    assert "optim.lr=0.2: ACC 70.00 (1) → not there" in told and "optim.lr=0.3: ACC not there → 70.00 (1)" in told
    finished_run(tmp_path / "c", [L2P[0], "method=joint"], [[90], [90, 90]])
    with pytest.raises(UserError, match="have no scenario, method, reading and swept setting in common; type the folders of"):
        list(why.answer(tmp_path / "a", str(tmp_path / "c")))


def test_debug_runs_are_left_out(tmp_path):
    for more in ([], ["debug=true"]):
        finished_run(tmp_path, [L2P[0], "method=finetune", *more], [[90], [70, 90]])
    assert len(list(tmp_path.rglob("DONE"))) == 2 and len(runs_below(tmp_path)) == len(runs_below(tmp_path / "debug")) == 1
    assert why.outputs_of(tmp_path, runs_below(tmp_path)) == tmp_path.resolve()


def test_a_printed_row_is_compared_with_one_setting_at_a_time(tmp_path):
    for rate, correct in (("0.1", 80), ("0.2", 60)):
        finished_run(tmp_path, [*L2P, f"optim.lr={rate}"], [[90], [correct, 80]])
    told = "\n".join(why.answer(tmp_path, "pgp_table5:L2P"))
    assert "ACC optim.lr=0.1: 80.00 (1) here" in told and "ACC optim.lr=0.2: 70.00 (1) here" in told


def test_a_printed_row_says_settings_definition_and_notes(sweeps):
    told = "\n".join(why.answer(sweeps[0], "pgp_table5:L2P"))
    assert "ACC: 75.00 ± 0.00 (2) here, 83.77 ± 0.16 printed  (-8.77)" in told
    assert "backbone.weights: shipped:vit_tiny.safetensors → vit_b16_in21k" in told
    assert "Forgetting is taken as `forgetting_with_last`" in told and "note: " in told
    assert "python run.py experiment=pgp_table5/cifar100_10tasks method=l2p" in told
    released = "\n".join(why.answer(sweeps[0], "pgp_table5:L2P:cifar100_20tasks:released"))
    assert "20-split CIFAR100" in released and "method.vote_train" in released and "method.vote_train" not in told
    assert "reading=released\n" in released


def test_settings_that_change_places_between_two_methods_are_told(tmp_path):
    """The same values in both sweeps, but not for the same method."""
    for folder, rates in (("a", ("0.1", "0.01")), ("b", ("0.01", "0.1"))):
        for method, rate in zip(("finetune", "joint"), rates):
            finished_run(tmp_path / folder, [L2P[0], f"method={method}", f"optim.lr={rate}"], [[90], [0, 90]])
    told = "\n".join(why.answer(tmp_path / "a", str(tmp_path / "b")))
    assert "finetune · paper alone:" in told and "optim.lr: 0.1 → 0.01" in told and "optim.lr: 0.01 → 0.1" in told


def test_rows_of_one_name_are_told_apart_by_their_memory(tmp_path):
    for memory in (1000, 5000):
        finished_run(tmp_path / str(memory), [L2P[0], "method=bic", f"method.memory={memory}"], [[90], [70, 80]])
    told = ["\n".join(why.answer(tmp_path / memory, "pgp_table5:BiC")) for memory in ("1000", "5000")]
    assert "66.11 ± 1.76 printed" in told[0] and "81.42 ± 0.85 printed" in told[1]
    assert "66.11 ± 1.76 printed" in "\n".join(why.answer(tmp_path / "5000", "pgp_table5:BiC, 1000"))


def test_a_row_that_is_quoted_alone_says_why(sweeps):
    assert "The row cannot be run here: " in "\n".join(why.answer(sweeps[0], "attriclip_table1:iTAML"))


def test_runs_are_found_below_any_folder(sweeps):
    assert len(runs_below(sweeps[1])) == 3
    (one,) = sweeps[1].glob("*/finetune/*/seed0")
    assert why.outputs_of(one, runs_below(one)) == sweeps[1].resolve()


@pytest.mark.parametrize(
    "second, line",
    [
        ("pgp_table5:L2", "error: pgp_table5 has no row L2; did you mean L2P?"),
        ("pgp_table5:L2P:cifar", "error: pgp_table5:L2P has no column cifar; "),
        ("nowhere", "error: nowhere holds no finished run (with a file DONE); type a folder that run.py wrote first, and"),
        ("pgp_table55:L2P", "error: table pgp_table55 is not known; did you mean pgp_table5?"),
        ("pgp_table5:l2p", "error: pgp_table5 has no row l2p; did you mean L2P?"),
    ],
)
def test_a_slip_gets_one_line(sweeps, second, line):
    command = [sys.executable, harness.ROOT / "scripts" / "why.py", sweeps[0], second]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(line) and done.stderr.count("\n") == 1
