"""Every file in conf/method keeps the contract. A new method is checked by being there."""

import copy
import math
from pathlib import Path

import pytest
import torch

from cil.common.signals import StopRequest
from cil.data.scenario import Scenario
from cil.engine import build
from cil.engine.build import device_of, experiment
from cil.method import Method
from cil.runs.run_folder import RunDir
from tests import harness

METHODS = harness.options("method")
FEW = ("scenario.tasks=10", "train.epochs=2", "train.batch_size=16", "machine.checkpoint_seconds=0")
FEWER = ("method.memory=12", "method.later_epochs=1", "method.tune_epochs=1")
LONG, LONGER = ("train.epochs=12", "train.batch_size=36"), ("train.epochs=40", "train.batch_size=12")
GROWING = (
    "ease",
    "der_mcg",
)  # their frozen stages grow with the tasks, and what an earlier process encoded is encoded once more
SMALLER = {"ranpac": ("method.features=200",)}
SCRATCH = {  # methods of which no weights are shipped: how they are made small, and what learns best
    "ari": (("method.memory=12", "train.first=null"), ("train.first=null", "train.epochs=12", "schedule.at=[8]")),
    "dytox": (FEWER, ("backbone=convit_tiny_lpa",)),
    "raw": (FEWER, ("backbone=convit_tiny_lpa",)),
    "der_mcg": (
        ("method.memory=12", "method.gate_width=8", "method.centroids=3", "train.first=null"),
        ("backbone=resnet_tiny", "train.first=null", "schedule.at=[30]"),
    ),
}


def trainer_of(config: dict, folder: Path, stop: StopRequest | None = None):
    run = RunDir(folder).open(config)
    return experiment(config, run, device_of("cpu"), StopRequest() if stop is None else stop)


def fitted(config: dict, folder: Path, stop: StopRequest | None = None):
    trainer = trainer_of(config, folder, stop)
    with trainer.run:
        trainer.fit()
    return trainer


@pytest.fixture
def small(compose, scenario, monkeypatch):
    """A method's configuration on the three-task scenario, whatever its recipe asks for."""
    monkeypatch.setattr("cil.engine.build.build_scenario", lambda config, backbone: scenario)
    return lambda method, *words: compose(
        f"method={method}", *FEW, *SMALLER.get(method, ()), *SCRATCH.get(method, [()])[0], *words
    )


@pytest.mark.parametrize("method", METHODS)
def test_scores_exactly_the_seen_classes_and_only_moves_its_phase(small, method, tmp_path, scenario):
    trainer = trainer_of(small(method), tmp_path)
    moved = []

    def watch(phase, number, inside, run_phase=trainer._run_phase):
        before = copy.deepcopy(dict(trainer.method.named_parameters()))
        free = {id(p) for entry in phase.parameters for p in (entry["params"] if isinstance(entry, dict) else [entry])}
        yield from run_phase(phase, number, inside)
        for name, parameter in trainer.method.named_parameters():
            if id(parameter) not in free:
                assert torch.equal(parameter, before[name]), f"{name} moved outside its phase"
            moved.append(not torch.equal(parameter, before[name]))

    trainer._run_phase = watch
    trainer.fit()
    assert any(moved) or not moved  # a phase that moves nothing is no phase
    images = scenario[2].test.batch(torch.arange(4)).images
    with torch.no_grad():
        assert trainer.method.predict(images).shape == (4, 6)
    for event in harness.losses(trainer.run):
        for name, value in event.get("losses", {}).items():
            assert name and math.isfinite(value)


@pytest.mark.parametrize("method", METHODS)
def test_learns(compose, method, tmp_path, images, monkeypatch):
    """Far better than chance on one task of six characters, from the shipped weights; without any, on what it was shown."""
    longer = (*LONGER, *SCRATCH[method][1]) if method in SCRATCH else LONG
    config = compose(f"method={method}", *longer)
    shipped = harness.compose(f"method={method}")["backbone"]
    config["backbone"].update(weights=shipped["weights"], sha256=shipped["sha256"])
    one_task = lambda config, backbone: Scenario(  # noqa: E731
        images, build.make(config["augment"], "augment", backbone.image), name="small", tasks=1, first=None, order="natural"
    )
    monkeypatch.setattr("cil.engine.build.build_scenario", one_task)
    trainer = fitted(config, tmp_path)
    if method in SCRATCH:
        shown = trainer.scenario[0].train_plain.batch(torch.arange(108))
        with torch.no_grad():
            assert (trainer.method.predict(shown.images).argmax(1) == shown.labels).float().mean() > 0.6
        return
    assert trainer.matrix.average() > 60  # chance is 17


@pytest.mark.parametrize("method", METHODS)
def test_frozen_stage_gives_what_predict_gives(small, method, tmp_path, scenario):
    trainer = trainer_of(small(method), tmp_path)
    if trainer.evaluation.frozen is None:
        assert type(trainer.method).predict is not Method.predict
        return
    trainer.fit()
    images = scenario[1].test.batch(torch.arange(5)).images
    with torch.no_grad():
        direct, staged = (
            trainer.method.predict(images),
            trainer.method.predict_from(trainer.method.frozen_stage(images), lambda: images),
        )
    torch.testing.assert_close(direct, staged)


@pytest.mark.parametrize("method", METHODS)
def test_runs_in_half_precision(small, method, tmp_path):
    trainer = fitted(small(method, "machine.precision=bf16"), tmp_path)
    assert trainer.matrix.learned == 3


class StopsAt(StopRequest):
    """A stop that arrives at the n-th time the loop looks."""

    def __init__(self, when: int) -> None:
        self.looks, self.when = 0, when

    def __bool__(self) -> bool:
        self.looks += 1
        if self.looks == self.when:
            self.name = "SIGTERM"
        return self.looks >= self.when


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("when", [1, 3, 6, 8, 10])
def test_resume_equals_straight_run(small, method, when, tmp_path):
    """Stopped inside an epoch, between epochs or tasks, in a later task; then gone on with in a fresh object."""
    from cil.common.signals import Stopped

    config = small(method)
    straight = fitted(config, tmp_path / "straight")
    stop = StopsAt(when)
    with pytest.raises(Stopped):
        fitted(config, tmp_path / "resumed", stop)
        if stop.looks <= when:
            raise Stopped("never reached: the method has fewer steps")
    resumed = fitted(config, tmp_path / "resumed")
    harness.assert_same_bits(straight.run, resumed.run)
    if method not in GROWING:
        assert straight.encodes.total == resumed.encodes.total


@pytest.mark.parametrize("method", ["rapf", "awpf", "coop", "attriclip", "dualprompt"])
def test_killed_in_a_second_task_equals_straight_run(compose, method, tmp_path):
    """Gone on with from the checkpoint of the first: what the second task begins with comes out in the same bits."""
    config = compose(f"method={method}", "dataset._target_=cil.data.datasets.glyphs.alphabet", "+dataset.script=latin",
                     "+dataset.classes=4", "scenario.tasks=2", "train.epochs=2", "machine.checkpoint_seconds=1000")  # fmt: skip
    straight, killed = fitted(config, tmp_path / "straight"), trainer_of(config, tmp_path / "killed")
    with killed.run:
        for step in killed.steps():
            killed.learn(step)
            if step.where[0] == 1:
                break  # what is not in a checkpoint by now is lost
        killed.log.close()
    assert killed.run.newest.name == "task_00.pt"
    resumed = fitted(config, tmp_path / "killed")
    harness.assert_same_bits(straight.run, resumed.run)
    if method not in GROWING:
        assert straight.encodes.total == resumed.encodes.total
