"""What a modifier may count on, shown with two of them."""

from typing import Protocol, runtime_checkable

import pytest
import torch

from cil.capabilities import require
from cil.common.errors import UserError
from cil.common.signals import StopRequest
from cil.engine.build import device_of, experiment
from cil.modifier import Modifier
from cil.runs.run_folder import RunDir


@runtime_checkable
class HasPool(Protocol):
    """has a prompt pool (method=l2p)"""

    def pool(self) -> torch.Tensor: ...


class Picky(Modifier):
    def attach(self, method):
        require(method, HasPool, "picky")


class Watch(Modifier):
    """Counts steps; remembers the norms of the gradients and whether weights had moved."""

    def __init__(self):
        self.steps, self.norms, self.moved, self.calls = 0, [], [], []

    def attach(self, method):
        self.calls.append("attach")

    def begin_task(self, method, task):
        self.calls.append(f"begin {task.index}")
        self.weight = method.head.weight.detach().clone()

    def before_step(self, method, phase):
        self.steps += 1
        gradients = [p.grad for p in phase.parameters if p.grad is not None]
        self.norms.append(torch.cat([g.flatten() for g in gradients]).norm().item())
        self.moved.append(not torch.equal(self.weight, method.head.weight))
        self.weight = method.head.weight.detach().clone()
        for gradient in gradients:
            gradient.zero_()  # the last word before the step

    def end_task(self, method, task):
        self.calls.append(f"end {task.index}")

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


@pytest.fixture
def trainer(compose, scenario, monkeypatch, tmp_path):
    monkeypatch.setattr("cil.engine.build.build_scenario", lambda config, backbone, images=None: scenario)
    words = [
        "method=finetune",
        "backbone=resnet_tiny",
        "train.epochs=2",
        "train.clip=0.01",
        "optim.weight_decay=0",
        "optim.momentum=0",
    ]

    def make(*modifiers):
        run = RunDir(tmp_path).open(compose(*words, "train.batch_size=16"))
        built = experiment(compose(*words, "train.batch_size=16"), run, device_of("cpu"), StopRequest())
        built.modifiers = list(modifiers)
        return built

    return make


def test_an_unsuitable_host_is_refused_in_words(trainer):
    with pytest.raises(UserError, match=r"picky needs a method that has a prompt pool \(method=l2p\); Finetune does not"):
        trainer(Picky()).fit()


def test_gradients_are_clipped_and_weights_have_not_moved(trainer):
    watch = Watch()
    built = trainer(watch)
    built.fit()
    assert watch.steps == 3 * 2 * 3  # tasks, epochs, batches of 16 in 36 images
    assert all(norm <= 0.01 + 1e-6 for norm in watch.norms)
    assert not any(watch.moved)  # its zeros were what the optimizer got
    assert watch.calls == ["attach", "begin 0", "end 0", "begin 1", "end 1", "begin 2", "end 2"]


def test_the_state_of_a_modifier_survives_a_restart(trainer, tmp_path):
    first = trainer(Watch())
    first.scenario = first.scenario[:2]
    with first.run:
        first.fit()
    again = Watch()
    trainer(again).fit()
    assert again.steps == 18
    assert again.calls == ["attach", "begin 2", "end 2"]  # what it did before is in its state
