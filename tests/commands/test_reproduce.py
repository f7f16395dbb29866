"""A published table made again: what it plans, runs, skips and prints. Runs are written by hand, all but one."""

import csv
import io
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from cil.commands import reproduce
from cil.common.errors import UserError
from cil.metrics import AccuracyMatrix
from cil.report import published, reproduced
from cil.report.numbers import Numbers, over
from cil.report.published import Number
from cil.report.reproduced import Line, lines, minus
from cil.runs.run_folder import RunDir, address
from tests import harness

TABLE = """
paper: A paper (2024)
table: Table 1
title: numbers & signs
seeds: [0, 1]
columns:
  one:
    title: glyphs
    run: [scenario=glyphs_10tasks]
    quantities: {acc: ACC, forgetting: F_t, after.2: Task 2, task_il.acc: TIL}
rows:
  - {name: L2P, run: [method=l2p], readings: both,
     numbers: {one: {acc: [70, 0.5], forgetting: 10, after.2: 80}}, notes: [misprint]}
  - {name: DER, quoted: no recipe, memory: 2000, numbers: {one: {acc: 60.5}}}
  - {name: zero, run: [method=class_mean], numbers: {one: {}}}
"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    (tmp_path / "made_up.yaml").write_text(TABLE)
    return published.load("made_up")


def finished_run(outputs: Path, words: list[str], correct: list[list[float]]) -> dict:
    """The folder of a run that answered so many of 100 images of each task."""
    config = harness.compose(*words, f"outputs={outputs}")
    run = RunDir(outputs / address(config))
    run.path.mkdir(parents=True)
    matrix, told = AccuracyMatrix([100] * len(correct)), AccuracyMatrix([100] * len(correct))
    for task, row in enumerate(correct):
        matrix.set_row(task, row)
        told.set_row(task, [100] * len(row))
    run.write_matrices({"class_il": matrix, "task_il": told})
    where = address(config)
    run.finish({"address": where, "scenario": "glyphs_10tasks", "method": where.split("/")[1], "digest": where.split("/")[2],
                "seed": config["seed"], "class_il": matrix.summary(), "task_il": told.summary(), "config": config,
                "seconds": 30.0, "trained_parameters": 1000, "identity": {"weights_sha256": "ab12", "git_commit": "c0ffee"},
                 "tasks": len(correct)})  # fmt: skip
    return run.summary()


@pytest.fixture
def runs(table, outputs):
    """Two seeds of L2P's first row and one in the released reading."""
    words = ["scenario=glyphs_10tasks", "method=l2p"]
    made = [finished_run(outputs, [*words, "reading=paper", f"seed={seed}"], [[90], [70 + 10 * seed, 80]]) for seed in (0, 1)]
    return {
        ("one", 0, "paper"): made,
        ("one", 0, "released"): [finished_run(outputs, [*words, "reading=released"], [[90], [50, 50]])],
    }


def test_a_row_is_printed_ours_in_each_reading_and_the_difference(table, runs, outputs):
    found = lines(table, "one", runs, Numbers(outputs, [run for group in runs.values() for run in group]))
    own = [line for line in found if line.row == "L2P"]
    assert [line.what for line in own] == ["printed", "ours", "difference", "ours (released)"]
    assert own[1].values[0].value == pytest.approx(np.mean([75, 80])) and own[1].values[0].spread == pytest.approx(
        np.std([75, 80], ddof=1)
    )
    assert own[1].values[2].value == pytest.approx(np.mean([75, 80]))  # after the second task, from the matrix
    assert own[1].values[3] is None and own[1].seeds == 2  # TIL is not printed
    assert own[2].values[0].value == pytest.approx(7.5) and own[2].values[3] is None
    assert own[3].values[0] == Number(50.0)
    assert [line.what for line in found if line.row == "DER, 2000"] == ["quoted"]
    assert [(line.what, line.seeds) for line in found if line.row == "zero"] == [("ours", 0)]


def test_text_keeps_within_a_terminal_and_says_what_was_not_run(table, runs, outputs):
    parts = {"one": lines(table, "one", runs, Numbers(outputs, []))}
    told = reproduced.text(table, parts)
    assert max(map(len, told.splitlines())) <= 80
    for words in ("70.00 ± 0.50", "77.50 ± 3.54", "+7.50", "not run", "L2P: misprint", "DER is quoted: no recipe", "quoted"):
        assert words in told
    page = reproduced.LANGUAGES["markdown"](table, parts)
    assert "| L2P " in page and "- L2P: misprint" in page


@pytest.mark.parametrize("name", published.tables())
def test_every_table_keeps_within_a_terminal(name, tmp_path):
    table = published.load(name)
    parts = {key: lines(table, key, defaultdict(list), Numbers(tmp_path, [])) for key in table.columns}
    told = reproduced.text(table, parts)
    assert max(map(len, told.splitlines())) <= 80
    for row in table.rows:
        assert row.name in " ".join(told.split())


def test_latex_is_booktabs_with_its_signs_escaped(table, runs, outputs):
    told = reproduced.latex(table, {"one": lines(table, "one", runs, Numbers(outputs, []))})
    assert told.count(r"\toprule") == told.count(r"\bottomrule") == 1 and r"F\_t" in told and r"77.50 $\pm$ 3.54" in told
    body = [line for line in told.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") for line in body}) == 1
    assert all(line.startswith("%") for line in told.splitlines() if "numbers & signs" in line)


def test_csv_has_a_line_a_number(table, runs, outputs):
    found = list(csv.DictReader(io.StringIO(reproduced.sheet(table, {"one": lines(table, "one", runs, Numbers(outputs, []))}))))
    (printed,) = (r for r in found if (r["row"], r["what"], r["quantity"]) == ("L2P", "printed", "acc"))
    (ours,) = (r for r in found if (r["row"], r["what"], r["quantity"]) == ("L2P", "ours", "acc"))
    assert (printed["value"], printed["spread"]) == ("70.0000", "0.5000") and (ours["value"], ours["seeds"]) == ("77.5000", "2")


def test_seeds_are_different_numbers():
    assert reproduce.seeds_of("0, 2") == [0, 2]
    for words in ("a", "0,,1", "0..2", "0,0", "-1"):
        with pytest.raises(UserError, match="type --seeds 0,1,2"):
            reproduce.seeds_of(words)


def test_over_and_minus_know_what_is_missing():
    assert over([]) is None and over([None, 2.0]) is None and over([2.0]) == Number(2.0)
    assert over([1.0, 3.0]).spread == pytest.approx(2**0.5)
    assert minus(None, Number(1.0)) is None and minus(Number(3.0), Number(1.0)) == Number(2.0)
    assert reproduced.cell(Line("row", "ours", [], 0), None) == "not run"


def test_the_plan_holds_each_run_once_and_skips_what_is_finished(table, runs, outputs, capsys, monkeypatch):
    entries = list(reproduce.planned(table, [0, 1], [f"outputs={outputs}"]))
    assert [(entry.row, entry.reading) for entry in entries] == [(0, "paper"), (0, "released"), (2, "paper")]
    asked = []
    monkeypatch.setattr(reproduce, "side_by_side", lambda sweeps, on: asked.extend(sweeps) or [])
    found, _ = reproduce.finished(outputs)
    assert reproduce.run(entries, found, [0, 1], "here") == []
    assert [words[-1] for words in asked] == ["seed=1", "seed=0,1"]  # the released reading lacks one seed, class_mean both
    told = "\n".join(reproduce.cost(table, entries, found))
    assert "3 rows, 1 of them only quoted; 3 of 6 runs to do" in told and "1 of them like runs that took 0 minutes" in told
    assert "2 similar to no finished run" in told


def test_a_row_that_names_its_reading_is_run_in_it():
    rows = published.load("inflora").rows
    planned = reproduce.planned(published.load("inflora"), [0], [])
    found = {(rows[entry.row].name, entry.config["reading"]) for entry in planned}
    assert found == {("InfLoRA", "paper"), ("InfLoRA", "released"), ("InfLoRA (log of the released code, seed 0)", "released")}


def test_rows_between_data_sets_have_a_run_over_the_second_alone():
    table = published.load("attriclip_table3")
    table = reproduce.narrowed(table, ["AttriCLIP"], None)
    entries = list(reproduce.planned(table, [0], []))
    assert [entry.beside for entry in entries] == [False, True] * (len(entries) // 2)
    assert all(entry.words[-1] == "dataset.only=second" for entry in entries if entry.beside)


@pytest.mark.parametrize(
    "words, line",
    [
        (["pgp_tabel5"], "error: table pgp_tabel5 is not known; did you mean pgp_table5?"),
        (["pgp_table5", "--row", "L2"], "error: pgp_table5 has no row L2; did you mean L2P?"),
        (["pgp_table5", "--on", "submitit"], "error: --on submitit is not known; did you mean submitit_slurm?"),
        (["pgp_table5", "--column", "cifar"], "error: pgp_table5 has no column cifar; "),
    ],
)
def test_a_slip_gets_one_line(words, line):
    done = subprocess.run([sys.executable, harness.ROOT / "scripts" / "reproduce.py", *words], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(line) and done.stderr.count("\n") == 1


def test_the_twin_has_every_shipped_method_and_its_words_compose():
    table = published.load("glyphs")
    first = [row.run[0] for row in table.rows]  # of some rows an experiment
    assert {word.removeprefix("method=") for word in first if word.startswith("method=")} == set(harness.SHIPPED)
    places = [place for entry in reproduce.planned(table, [0], []) for place in entry.places]
    assert len(places) == len(set(places)), "two rows are the same run"


def test_a_row_is_run_and_then_known(data_root, monkeypatch, capsys, tmp_path):
    """The whole way once, with the quickest row; what failed is said, and the rest is printed."""
    outputs = tmp_path / "outputs"
    settings = [f"data.root={data_root}", *harness.SMALL]
    words = ["glyphs", "--row", "class_mean", "--outputs", str(outputs), "--settings", *settings]
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
    assert reproduce.main() == 0
    first = capsys.readouterr()
    assert re.search(r"class_mean +ours +\d+\.\d\d", first.out) and "1 of 1 runs to do" in first.err
    assert reproduce.main() == 0
    assert "0 of 1 runs to do" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--seeds", "7", *words, "train.batch_size=none"])
    assert reproduce.main() == 2
    told = capsys.readouterr()
    assert "error: " in told.err and "not run" in told.out
    assert json.loads(next(outputs.glob("*/class_mean/*/seed0/summary.json")).read_text())["seed"] == 0


def test_a_plan_is_made_quickly_and_without_torch():
    """Each choice of files is composed once and each file is read once; the result is what `compose` returns."""
    code = """
import sys
from unittest.mock import patch
from cil.launch import compose as module
from cil.commands.reproduce import planned
from cil.report.published import load
from hydra._internal.config_repository import ConfigRepository

with patch.object(module, "hydra_compose", side_effect=module.hydra_compose) as composed, \\
     patch.object(ConfigRepository, "load_config", autospec=True, side_effect=ConfigRepository.load_config) as read:
    entries = list(planned(load("pgp_table9"), [0, 1, 2], []))
assert "torch" not in sys.modules
paths = [call.args[1] if len(call.args) > 1 else call.kwargs["config_path"] for call in read.call_args_list]
assert len(paths) == len(set(paths)), "a file was read twice"
assert len(entries) == 40 and composed.call_count == 20, (len(entries), composed.call_count)
for entry in entries[::13]:
    assert entry.config == module.compose(*entry.words, "seed=0")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=harness.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
