"""Runs that learn together are, to the bit, the runs that they would be alone."""

import signal
from pathlib import Path

import pytest
import torch

import cil.engine.summary
from cil.commands import batched
from cil.common.errors import UserError
from cil.engine.batched import Stack
from tests import harness

SHIPPED = harness.compose("backbone=clip_tiny")["backbone"]
FROM_FILE = (f"backbone.weights={SHIPPED['weights']}", f"backbone.sha256={SHIPPED['sha256']}")
SMALL = (*harness.SMALL[:2], "machine=cpu", "log.live=false", "data.features=null", "backbone=clip_tiny", "scenario.tasks=4",
         "scenario.order=natural", "augment.train.crop=whole", "train.epochs=2", *FROM_FILE)  # fmt: skip


@pytest.fixture
def words(data_root, tmp_path):
    return lambda folder: [f"outputs={tmp_path / folder}", f"data.root={data_root}", *SMALL]


def alone(configs: list[dict], folder: Path) -> list:
    return [harness.execute({**config, "outputs": str(folder)}) for config in configs]


@pytest.mark.parametrize("sweep", [
    ["method=rapf", "method.threshold=0.9", "method.bias=0.4,0.8", "seed=0,1"],
    ["method=awpf", "method.mmd_weight=0.2,0.9", "method.fusion=stacked,new", "seed=3"],
])  # fmt: skip
@pytest.mark.parametrize("threads", [1, 2])
def test_together_as_alone(words, tmp_path, sweep, threads, capsys):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert batched.sweep([*sweep, *words("together")]) == 0
        configs = list(batched.points([*sweep, *words("together")]))
        assert len(configs) == 4 and "4 runs together" in capsys.readouterr().out
        for config, single in zip(configs, alone(configs, tmp_path / "alone"), strict=True):
            harness.assert_same_bits(harness.run_of(config), single)
            mine, other = harness.run_of(config).summary(), single.summary()
            assert mine["class_il"] == other["class_il"] and mine["address"] == other["address"]
    finally:
        torch.set_num_threads(before)


def test_images_are_encoded_once_for_all(words):
    sweep = ["method=rapf", "seed=0,1,2", *words("runs")]
    assert batched.sweep(sweep) == 0
    encodes = [harness.run_of(config).summary()["image_encodes"] for config in batched.points(sweep)]
    assert encodes == [1200, 0, 0]


def test_a_finished_sweep_is_not_repeated(words, capsys):
    sweep = ["method=rapf", "seed=0,1", *words("runs")]
    assert batched.sweep(sweep) == 0
    capsys.readouterr()
    assert batched.sweep(sweep) == 0
    assert capsys.readouterr().out.strip() == "2 done already"


def test_stopped_in_the_middle_each_goes_on_alone(words, tmp_path, monkeypatch, capsys):
    sweep, learned, learn = ["method=awpf", "seed=0,1", *words("runs")], [], Stack.learn

    def stops(stack, steps):
        learn(stack, steps)
        learned.append(steps[0].where)
        if steps[0].where[0] == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Stack, "learn", stops)
    assert batched.sweep(sweep) == batched.EXIT_CODE
    assert "resumes from the last checkpoint" in capsys.readouterr().err
    configs = list(batched.points(sweep))
    assert [harness.run_of(config).newest.name for config in configs] == ["task_01.pt"] * 2
    before = len(learned)
    assert batched.sweep(sweep) == 0
    assert len(learned) == before  # alone
    for config, single in zip(configs, alone(configs, tmp_path / "straight")):
        harness.assert_same_bits(harness.run_of(config), single)


@pytest.mark.parametrize("sweep", [
    ["method=rapf", "train.clip=1.0", "seed=0,1"],
    ["method=class_mean", "seed=0,1"],
    ["method=rapf", "augment.train.crop=random_resized", "seed=0,1", "train.epochs=1"],
])  # fmt: skip
def test_what_cannot_learn_together_runs_alone(words, sweep, capsys):
    shared = [word for word in words("runs") if word.split("=")[0] not in {own.split("=")[0] for own in sweep}]
    assert batched.sweep([*sweep, *shared]) == 0
    assert "together" not in capsys.readouterr().out
    assert all(harness.run_of(config).is_done for config in batched.points([*sweep, *shared]))


def test_points_of_a_sweep():
    named = list(batched.points(["experiment=attriclip_table6/glyphs_10tasks", "method.key_loss=mse", "seed=4,5"]))
    assert [(config["method"]["key_loss"], config["seed"]) for config in named] == [("mse", 4), ("mse", 5)]
    listed = list(batched.points(["method=continual_clip", "method.templates=[a,b]", "seed=1"]))
    assert [config["method"]["templates"] for config in listed] == [["a", "b"]]

    both = list(batched.points(["experiment=awpf_figure4/glyphs_10tasks,awpf_fusion/glyphs_10tasks"]))
    assert len(both) == 27 + 25  # each has its own grid
    (added,) = batched.points(["method=rapf", "+optim.eps=choice(1e-7)"])
    assert added["optim"]["eps"] == 1e-7
    with pytest.raises(UserError, match="spelled out"):
        list(batched.points(["method=glob(*wpf)"]))


def test_a_point_that_cannot_run_leaves_the_others(words, capsys):
    sweep = ["method=awpf", "method.mmd_weight=0.5,1.5,0.7", "seed=0,0", *words("runs")]
    configs = list(batched.points(sweep))
    with harness.run_of(configs[0]).open(configs[0]):  # by another process
        assert batched.sweep(sweep) == 2
    told = capsys.readouterr().err
    assert "method.mmd_weight=1.5 is not a number from 0 to 1" in told and "is being run by process" in told
    assert [harness.run_of(config).is_done for config in configs[::2]] == [False, False, True]
    assert batched.sweep([*sweep, "method.mmd_weight=0.5"]) == 0
    assert harness.run_of(configs[0]).is_done


def test_a_run_that_another_process_finished_or_began_meanwhile(words):
    configs = list(batched.points(["method=rapf", "seed=0,1,2", *words("runs")]))
    harness.execute(configs[1])
    assert batched.several(configs) == ([], []) and all(harness.run_of(config).is_done for config in configs)


def test_a_sweep_in_several_groups(words, monkeypatch, capsys):
    monkeypatch.setattr("cil.engine.batched.BYTES", 2 * 4 * 100 * 128**2)
    assert batched.sweep(["method=rapf", "seed=0,1,2,3", *words("runs")]) == 0
    assert capsys.readouterr().out.count("2 runs together") == 2


def test_a_signal_at_the_end_stops_what_would_come_next(words, monkeypatch, capsys):
    finish = cil.engine.summary.finish
    monkeypatch.setattr(cil.engine.summary, "finish", lambda *of: signal.raise_signal(signal.SIGTERM) or finish(*of))
    sweep = ["method=rapf,awpf", "seed=0,1", *words("runs")]
    assert batched.sweep(sweep) == batched.EXIT_CODE
    done = [harness.run_of(config).is_done for config in batched.points(sweep)]
    assert done == [True, True, False, False]


def test_a_mistake_is_one_line(capsys):
    assert batched.main(["method=rapf", "method.biass=0.1,0.2"]) == 2
    assert "biass" in capsys.readouterr().err
