"""Every file in conf/method keeps the contract. A new method is checked by being there."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cil.common.signals import Stopped, StopRequest
from cil.contract import FEW as SHORT
from cil.contract import Broken, Contract, StopsAt
from cil.engine.build import device_of, experiment
from cil.methods.finetune import Finetune
from cil.runs.run_folder import RunDir
from tests import harness

METHODS = harness.options("method")
FEW = ("scenario.tasks=10", *SHORT)
FEWER = ("method.memory=12", "method.later_epochs=1", "method.tune_epochs=1")
GROWING = (
    "ease",
    "der_mcg",
    "mos",
    "mg_clip",
    "tuna",
)  # their frozen stages grow with the tasks, and what an earlier process encoded is encoded once more
SMALLER = {"mos": ("method.align_epochs=2",), "ranpac": ("method.features=200",), "tuna": ("method.align_epochs=2",)}
SCRATCH = {  # methods of which no weights are shipped: how they are made small, and what learns best
    "ari": (("method.memory=12", "train.first=null"), ("train.first=null", "train.epochs=12", "schedule.at=[8]")),
    "dytox": (FEWER, ("backbone=convit_tiny_lpa",)),
    "raw": (FEWER, ("backbone=convit_tiny_lpa",)),
    "der_mcg": (
        ("method.memory=12", "method.gate_width=8", "method.centroids=3", "train.first=null"),
        ("backbone=resnet_tiny", "train.first=null", "schedule.at=[30]"),
    ),
}


@pytest.fixture
def contract(images, data_root, tmp_path):
    """Of a method; `small` makes it as small as it goes."""

    def made(method: str, *, small: bool = True) -> Contract:
        words = (f"method={method}", *((*SMALLER.get(method, ()), *SCRATCH.get(method, [()])[0]) if small else ()))
        learning = () if small else SCRATCH.get(method, [(), ()])[1]
        place = (f"outputs={tmp_path / 'outputs'}", f"data.root={data_root}")
        return Contract(lambda *more: harness.compose(*place, *more), tmp_path, images, words, learning)

    return made


@pytest.mark.parametrize("method", METHODS)
def test_scores_moves_and_resumes(contract, method):
    """All of it is held against one run that is never stopped."""
    made = contract(method)
    made.scores_the_classes_seen()
    made.predicts_from_its_frozen_stage()
    made.moves_only_its_phase()
    made.resumes(encodes=method not in GROWING)


@pytest.mark.parametrize("method", METHODS)
def test_learns(contract, method):
    """Far better than chance on one task of six characters, from the shipped weights; without any, on what it was shown."""
    made = contract(method, small=False)
    made.learns()
    assert ("shown" in made.said[0]) == (method in SCRATCH)


@pytest.mark.parametrize("method", METHODS)
def test_runs_in_half_precision(contract, method):
    contract(method).runs_in_half_precision()


def test_a_stop_reaches_the_loop(contract):
    """The request that a check makes is false when it is made, and is not to be replaced for that."""
    made = contract("finetune")
    with pytest.raises(Stopped):
        made.fitted(made.few, "stopped", StopsAt(10))


def test_what_breaks_a_promise_is_told(contract, monkeypatch):
    """A frozen weight that moves, a phase that moves nothing, a count that is lost when an epoch is interrupted."""
    step = Finetune.training_step

    def broken(check: str, *words: str, **changed: Callable) -> str:
        made = contract("finetune")
        made.words += words
        with monkeypatch.context() as patched, pytest.raises(Broken) as caught:
            for name, function in changed.items():
                patched.setattr(Finetune, name, function)
            getattr(made, check)()
        shutil.rmtree(made.folder)
        return str(caught.value)

    def strays(self, batch, phase):
        self.backbone.trunk.norm.weight.data += 1
        return step(self, batch, phase)

    def begins(self, phase, epoch):
        self.first = epoch == 0
        self.counted = 0 if self.first else getattr(self, "counted", len(phase.data))

    def counts(self, batch, phase):
        self.counted += self.first * len(batch.labels)  # of the first epoch
        return step(self, batch, phase)

    def weighs(self, phase):
        self.head.bias.data.mul_(self.counted / len(phase.data))

    found = broken("moves_only_its_phase", "method.learn=head", training_step=strays)
    assert found == "backbone.trunk.norm.weight moved in phase train, which does not name it"
    found = broken("moves_only_its_phase", "optim.weight_decay=0", training_step=lambda *given: {"ce": 0 * step(*given)["ce"]})
    assert found == "no phase moved any parameter"
    found = broken("resumes", begin_epoch=begins, training_step=counts, end_phase=weighs)
    assert found.startswith("stopped 6 times and resumed, it ends differently")


def trainer_of(config: dict, folder: Path, stop: StopRequest | None = None):
    return experiment(config, RunDir(folder).open(config), device_of("cpu"), StopRequest() if stop is None else stop)


def fitted(config: dict, folder: Path, stop: StopRequest | None = None):
    trainer = trainer_of(config, folder, stop)
    with trainer.run:
        trainer.fit()
    return trainer


@pytest.fixture
def small(compose, scenario, monkeypatch):
    """A method's configuration on the three-task scenario, whatever its recipe asks for."""
    monkeypatch.setattr("cil.engine.build.build_scenario", lambda config, backbone, images=None: scenario)
    return lambda method, *words: compose(
        f"method={method}", *FEW, *SMALLER.get(method, ()), *SCRATCH.get(method, [()])[0], *words
    )


@pytest.mark.parametrize("method", ["rapf", "awpf", "coop", "attriclip", "dualprompt"])
def test_killed_in_a_second_task_equals_straight_run(compose, method, tmp_path):
    """Gone on with from the checkpoint of the first: what the second task begins with comes out in the same bits."""
    config = compose(f"method={method}", *harness.latin(4),
                     "scenario.tasks=2", "train.epochs=2", "machine.checkpoint_seconds=1000")  # fmt: skip
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
