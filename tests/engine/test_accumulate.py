"""train.accumulate: a batch that is learned in parts gives what the whole batch gives, in one step."""

import json

import pytest
import torch

from cil.common.errors import UserError
from cil.data.images import Batch
from cil.engine.processes import parts
from cil.runs.run_folder import address, digest
from tests import harness
from tests.methods.test_contract import METHODS, fitted, small, trainer_of  # noqa: F401

SEVERAL = ("finetune", "dualprompt", "l2p", "clip_prompt", "icarl", "coop", "ewc")
CALM = {"finetune": ("optim.lr=0.001",), "icarl": ("optim.lr=0.001",), "ewc": ("optim.lr=0.001",)}  # steps that amplify no bit


def learned(trainer, steps: int = 3) -> tuple[list[dict], dict]:
    """Losses of the first steps, and all parameters after them."""
    told = []
    for step in trainer.steps():
        trainer.learn(step)
        told.append({name: float(value) for name, value in step.losses.items()})
        if len(told) == steps:
            break
    return told, {name: value.detach().clone() for name, value in trainer.method.named_parameters()}


@pytest.mark.parametrize("method", SEVERAL)
def test_parts_learn_what_the_whole_batch_learns(small, method, tmp_path):  # noqa: F811
    """Sixteen images in three parts of unequal sizes; gradients are clipped, and the optimizer moves, once a step."""
    words = ("train.clip=0.5", *CALM.get(method, ()))
    whole = learned(trainer_of(small(method, *words), tmp_path / "whole"))
    divided = learned(trainer_of(small(method, *words, "train.accumulate=3"), tmp_path / "parts"))
    for one, two in zip(whole[0], divided[0], strict=True):
        assert one.keys() == two.keys() and one == pytest.approx(two, rel=1e-4, abs=1e-5)
    for name, value in whole[1].items():
        torch.testing.assert_close(divided[1][name], value, rtol=1e-3, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_modifiers_act_and_gradients_are_clipped_once_a_step(small, tmp_path, monkeypatch):  # noqa: F811
    trainer, calls = trainer_of(small("dualprompt", "modifier=pgp", "train.accumulate=4", "train.clip=1.0"), tmp_path), []
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *given: calls.append("clip") or clip(*given))
    (modifier,) = trainer.modifiers
    monkeypatch.setattr(modifier, "before_step", lambda *_: calls.append("before"))
    passes = []
    trainer.method.backbone.register_forward_pre_hook(lambda _, given: passes.append(len(given[0])))
    learned(trainer, steps=1)
    assert calls == ["clip", "before"]
    assert passes == [4] * 8, "a query pass and a prompted pass for each of four parts"


def test_a_whole_run_in_parts_ends_where_it_would(small, tmp_path):  # noqa: F811
    matrices = [fitted(small("dualprompt", f"train.accumulate={k}"), tmp_path / str(k)).matrix.correct for k in (1, 4)]
    assert abs(matrices[0] - matrices[1])[matrices[0] >= 0].max() <= 1


def test_fewer_images_than_parts():
    batch = Batch(torch.arange(3.0), torch.arange(3), torch.arange(3), 7)
    found = parts(batch, 5)
    assert torch.equal(torch.cat([part.images for part, _ in found]), batch.images)
    assert [weight for _, weight in found] == pytest.approx([1 / 3] * 3) and all(part.step == 7 for part, _ in found)
    assert parts(batch, 1)[0][0] is batch


@pytest.mark.parametrize("method", METHODS)
def test_the_same_methods_as_with_several_processes_can(small, method, tmp_path):  # noqa: F811
    able = trainer_of(small(method), tmp_path / "one").method.divisible
    try:
        trainer_of(small(method, "train.accumulate=2"), tmp_path / "two")
        assert able
    except UserError as error:
        assert not able and "learns from a batch as a whole" in str(error) and "type train.accumulate=1" in str(error)


def test_a_network_that_normalises_over_a_batch_is_refused(small, tmp_path):  # noqa: F811
    with pytest.raises(UserError, match=r"normalises over a batch.*type train\.accumulate=1"):
        trainer_of(small("finetune", "family=resnet32", "train.accumulate=2"), tmp_path)


def test_one_part_is_no_part_of_the_address_and_several_are(compose):
    plain, one, two = (compose("method=finetune", *words) for words in ((), ("train.accumulate=1",), ("train.accumulate=2",)))
    assert digest(plain) == digest(one) != digest(two)
    run = harness.execute(compose("method=finetune", "train.accumulate=2", "scenario.tasks=2"))
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["config"]["train"]["accumulate"] == 2 and address(summary["config"]) == summary["address"]
