"""Runs that are trained together equal the runs that they are alone: up to rounding, and those of adapters to the bit."""

import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig

import cil.engine.summary
from cil.common.signals import EXIT_CODE
from cil.engine.stack import Stack
from cil.launch import stacked
from cil.launch.compose import compose, lines
from cil.runs.run_folder import RunDir
from cil.runs.settings import checked
from tests import harness

BASE = ("dataset.train_per_class=3", "dataset.test_per_class=1", "machine=cpu", "log.live=false", "data.features=null",
        "scenario=glyphs_10tasks", *harness.latin(28), "scenario.tasks=4", "train.epochs=1", "train.batch_size=8")  # fmt: skip
ENCODED = ("augment.train.crop=whole", "backbone=clip_tiny")  # features are computed once


@pytest.fixture
def jobs(data_root, tmp_path):
    def made(*words: str) -> list[stacked.Job]:
        typed = {word.split("=")[0] for word in words}
        base = [word for word in BASE if word.split("=")[0] not in typed]
        sweep = lines([*words, *base, f"outputs={tmp_path / 'runs'}", f"data.root={data_root}"])
        return [stacked.Job(line, checked(compose(*line))) for line in sweep]

    return made


def together(jobs: list[stacked.Job]) -> None:
    """As hydra/launcher=stacked, without what Hydra's own launcher does afterwards."""

    def node(words: list[str]) -> DictConfig:
        with initialize_config_dir(str(harness.CONF), version_base="1.3"):
            return hydra_compose("config", overrides=words)

    stacked.train_together([job.words for job in jobs], node)


def alone(jobs: list[stacked.Job], folder: Path) -> list[RunDir]:
    return [harness.execute({**job.config, "outputs": str(folder)}) for job in jobs]


def assert_equal(one: RunDir, two: RunDir) -> None:
    """The same record with losses equal up to rounding, and accuracies that differ by one image at most."""
    first, second = harness.losses(one), harness.losses(two)
    assert [sorted(row) for row in first] == [sorted(row) for row in second]
    for left, right in zip(first, second):
        for name, value in left.get("losses", {}).items():
            assert math.isclose(value, right["losses"][name], rel_tol=1e-4, abs_tol=1e-5), (name, left, right)
        for name in ("class_il", "task_il"):
            assert all(abs(a - b) <= 1 for a, b in zip(left.get(name, []), right.get(name, []))), (left, right)


@pytest.mark.parametrize(("sweep", "runs"), [
    (["method=l2p", "modifier=none,pgp", "seed=0,1"], 4),
    (["method=dualprompt", "modifier=none,pgp", "method.pull=0.5,1.0"], 4),
    (["method=coda_prompt", "seed=0,1", "optim.lr=0.001,0.01"], 4),
    (["method=clip_prompt", "modifier=none,pgp", "train.clip=1.0", "backbone=clip_tiny"], 2),
    (["method=coop", "seed=0,1", "method.memory=20", "backbone=clip_tiny"], 2),
    (["method=attriclip", "seed=0,1", "backbone=clip_tiny", "method.bank=3", "method.top_k=2"], 2),
    (["method=finetune", "method.learn=head", "seed=0,1,2"], 3),
])  # fmt: skip
def test_together_as_alone(jobs, tmp_path, sweep, runs, capsys):
    made = jobs(*sweep)
    together(made)
    assert len(made) == runs and f"{runs} runs of" in capsys.readouterr().out
    encodes = [0, 0]
    for job, single in zip(made, alone(made, tmp_path / "alone"), strict=True):
        assert_equal(job.run, single)
        encodes = [sum(pair) for pair in zip(encodes, (run.summary()["image_encodes"] for run in (job.run, single)))]
        mine, other = job.run.summary(), single.summary()
        assert mine["address"] == other["address"] and mine["command"].endswith(" ".join(job.words))
    assert 0 < encodes[0] <= encodes[1] + 4 * runs  # shares are rounded after each task


@pytest.mark.parametrize("sweep", [
    ["method=rapf", "method.threshold=0.9", "method.bias=0.4,0.8", "seed=0,1"],
    ["method=awpf", "method.mmd_weight=0.2,0.9", "seed=3"],
])  # fmt: skip
def test_adapters_are_equal_to_the_bit(jobs, tmp_path, sweep):
    made = jobs(*sweep, *ENCODED, "dataset.train_per_class=9", "train.batch_size=30")
    together(made)
    for job, single in zip(made, alone(made, tmp_path / "alone"), strict=True):
        harness.assert_same_bits(job.run, single)


def test_images_are_encoded_once_for_all(jobs):
    made = jobs("method=rapf", "seed=0,1,2", *ENCODED)
    together(made)
    assert [job.run.summary()["image_encodes"] for job in made] == [112, 0, 0]


@pytest.fixture
def stopped(monkeypatch):
    """Stop once, inside the third task; the steps that were taken, each with the number of runs."""
    learned, learn, asked = [], Stack.learn, []

    def stops(stack, steps):
        learn(stack, steps)
        learned.append((steps[0].where, len(steps)))
        if steps[0].where == (2, 0, 0, 0) and not asked:
            asked.append(True)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Stack, "learn", stops)
    return learned


def test_a_group_goes_on_together_or_in_another_size_or_alone(jobs, tmp_path, stopped, capsys):
    made = jobs("method=dualprompt", "modifier=none,pgp", "seed=0,1")
    with pytest.raises(SystemExit) as left:
        together(made)
    assert left.value.code == EXIT_CODE and "resumes from the last checkpoint" in capsys.readouterr().err
    assert [job.run.newest.name for job in made] == ["inside.pt"] * 4
    harness.execute(made[0].config)  # one alone
    taken = len(stopped)
    together(made[1:])
    assert stopped[taken] == ((2, 0, 0, 2), 3)
    for job, single in zip(made, alone(made, tmp_path / "alone")):
        assert_equal(job.run, single)


def test_runs_that_have_got_to_different_places_wait_for_one_another(jobs, tmp_path, stopped):
    made = jobs("method=l2p", "seed=0,1,2")
    with pytest.raises(SystemExit):
        together(made[:2])
    stopped.clear()
    together(made)  # the third begins
    assert stopped[0] == ((0, 0, 0, 0), 1) and stopped[-1][1] == 3
    for job, single in zip(made, alone(made, tmp_path / "alone")):
        assert_equal(job.run, single)


@pytest.mark.parametrize(("sweep", "why"), [
    (["method=finetune", "seed=0,1"], "it trains the backbone (method.learn=head does not)"),
    (["method=class_mean", "seed=0,1"], "ClassMean cannot be trained together with other runs"),
    (["method=l2p", "seed=0,1", "backbone.weights=null", "backbone.sha256=null"], "no weights from a file"),
    (["method=l2p", "seed=0,1", "train.accumulate=2", "method.vote_train=false"], "train.accumulate"),
])  # fmt: skip
def test_what_cannot_be_trained_together_says_why_in_one_line(jobs, sweep, why, capsys):
    made = jobs(*sweep)
    together(made)
    (line,) = capsys.readouterr().out.splitlines()
    assert why in line and "are trained one by one" in line
    assert not any(job.run.path.exists() for job in made)


def test_settings_that_change_shapes_part_a_sweep(jobs, capsys):
    together(jobs("method=l2p", "seed=0,1", "method.length=3,5"))
    assert capsys.readouterr().out.count("2 runs of") == 2


def test_a_run_that_another_process_runs_or_has_finished_is_left_out(jobs, capsys):
    made = jobs("method=rapf", "seed=0,1,2,3", *ENCODED)
    harness.execute(made[1].config)
    capsys.readouterr()
    with made[2].run.open(made[2].config):
        together(made)
    assert "2 runs of rapf" in capsys.readouterr().out
    assert [job.run.is_done for job in made] == [True, True, False, True]


def test_the_number_of_runs_is_bounded(jobs, monkeypatch, capsys):
    together(jobs("method=rapf", "seed=0,1,2,3,4", "machine.stack=2", *ENCODED))
    assert capsys.readouterr().out.count("2 runs of") == 2  # the fifth is left to Hydra's launcher


def test_runs_that_do_not_fit_into_memory_are_split(jobs, tmp_path, monkeypatch, capsys):
    made, whole = jobs("method=dualprompt", "seed=0,1,2"), Stack._learn

    def small(stack, some, steps):
        if len(steps) > 2:
            raise torch.OutOfMemoryError("too many")
        whole(stack, some, steps)

    monkeypatch.setattr(Stack, "_learn", small)
    together(made)
    assert "3 runs do not fit into memory together; 2 at a time do" in capsys.readouterr().out
    for job, single in zip(made, alone(made, tmp_path / "alone")):
        assert_equal(job.run, single)


def test_a_run_that_fails_leaves_the_others(jobs, monkeypatch):
    made = jobs("method=l2p", "seed=0,1,2")
    save = RunDir.save
    monkeypatch.setattr(
        RunDir, "save", lambda run, *given, **more: 1 / 0 if run.path.name == "seed1" else save(run, *given, **more)
    )
    together(made)
    assert [job.run.is_done for job in made] == [True, False, True]


def test_a_signal_at_the_end_stops_what_would_come_next(jobs, monkeypatch):
    finish = cil.engine.summary.finish
    monkeypatch.setattr(cil.engine.summary, "finish", lambda *of: signal.raise_signal(signal.SIGTERM) or finish(*of))
    made = [*jobs("method=rapf", "seed=0,1", *ENCODED), *jobs("method=awpf", "seed=0,1", *ENCODED)]
    with pytest.raises(SystemExit):
        together(made)
    assert [job.run.is_done for job in made] == [True, True, False, False]


def test_the_launcher_on_the_command_line(data_root, tmp_path):
    words = [*BASE, "method=l2p", "seed=0,1", "scenario.tasks=2", "save.predictions=true", f"data.root={data_root}"]
    command = [sys.executable, harness.ROOT / "run.py", "-m", *words, "hydra/launcher=stacked", f"outputs={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 runs of l2p on glyphs_10tasks are trained together" in done.stdout
    runs = sorted(tmp_path.glob("*/l2p/*/seed*"))
    assert [run.name for run in runs] == ["seed0", "seed1"] and all(
        (run / "predictions" / "task_01.npz").exists() for run in runs
    )


def test_a_wrong_value_fails_its_own_runs_and_debug_runs_are_trained_once(data_root, tmp_path):
    words = [*BASE, "method=l2p", "seed=0,1", "train.clip=1,banana", "debug=true", f"data.root={data_root}"]
    command = [sys.executable, harness.ROOT / "run.py", "-m", *words, "hydra/launcher=stacked", f"outputs={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "4 runs: 2 finished, 2 failed" in done.stdout
    assert "2 runs of l2p" in done.stdout and "percent correct" not in done.stdout  # no run prints its matrix
    assert done.stderr.count("train.clip=banana is not a number") == 2
    assert all("task 1/2" in log.read_text() for log in tmp_path.rglob("run.log"))
