"""machine.compile: the same numbers within float tolerance, and one line where the compiler cannot."""

import copy
import os
import shutil
import subprocess
import sys

import pytest
import torch
import torch._dynamo

from cil.backbones import compiled
from cil.backbones.compiled import Passes, divided, plainly
from cil.runs.run_folder import RunDir, address
from tests import harness
from tests.methods.test_contract import small, trainer_of  # noqa: F401

CPU = torch.device("cpu")
HOSTS = ("dualprompt", "l2p", "attriclip", "clip_prompt", "finetune", "lwf")
NARROW = ("backbone.changes.depth=2", "method.general_blocks=[0]", "method.expert_blocks=[1]")


@pytest.fixture(autouse=True)
def fresh():
    """Nothing that another test compiled."""
    torch._dynamo.reset()


@pytest.fixture
def calls(monkeypatch):
    """aot_eager traces and divides a pass as inductor does, and needs seconds less for it; how often it was entered."""
    entered = []
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    form = Passes._form

    def watched(self, walk):
        made = form(self, walk)
        return lambda *given, **named: entered.append(len(given[1])) or made(*given, **named)

    monkeypatch.setattr(Passes, "_form", watched)
    return entered


def first_step(trainer) -> tuple[dict, dict]:
    """Losses and gradients of the first batch."""
    step = next(trainer.steps())
    trainer.learn(step)
    found = {n: p.grad.clone() for n, p in trainer.method.named_parameters() if p.requires_grad and p.grad is not None}
    return {name: float(loss) for name, loss in step.losses.items()}, found


def scores(trainer) -> torch.Tensor:
    trainer.method.eval()
    with torch.inference_mode():
        return trainer.method.predict(trainer.scenario[0].test.batch(torch.arange(12)).images)


@pytest.mark.parametrize("method", HOSTS)
def test_compiled_equals_eager_in_a_step_and_an_evaluation(small, method, tmp_path, calls):  # noqa: F811
    eager, other = (
        trainer_of(small(method, "machine.eval_batch_size=12", *words), tmp_path / str(len(words)))
        for words in ((), ("machine.compile=on",))
    )
    (losses, gradients), (found, others) = first_step(eager), first_step(other)
    assert found == pytest.approx(losses, rel=1e-4, abs=1e-5)
    assert gradients.keys() == others.keys() and gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    before = len(calls)
    torch.testing.assert_close(scores(other), scores(eager), rtol=1e-3, atol=1e-4)
    assert before or method == "attriclip"  # whose images come encoded, in blocks
    assert len(calls) > before


def test_a_whole_run_says_so_and_keeps_its_address(compose, calls):
    runs = []
    for word in ("off", "on"):
        config = compose("method=dualprompt", "scenario.tasks=5", "train.epochs=1", f"machine.compile={word}",
                         f"data.root={compose()['data']['root']}")  # fmt: skip
        config["outputs"] += word
        runs.append(harness.execute(config))
    plain, other = (run.summary() for run in runs)
    assert plain["address"] == other["address"] == address(other["config"])
    assert "compile" not in plain["identity"] and other["identity"]["compile"] is True
    assert calls and "machine.compile=on: passes of" in (runs[1].path / "run.log").read_text()
    for one, two in zip(harness.losses(runs[0]), harness.losses(runs[1]), strict=True):
        assert one.get("losses", {}) == pytest.approx(two.get("losses", {}), rel=1e-2)


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_inductor_equals_eager(small, tmp_path):  # noqa: F811
    words = (*NARROW, "machine.eval_batch_size=12")
    eager, other = (
        trainer_of(small("dualprompt", *words, f"machine.compile={word}"), tmp_path / word) for word in ("off", "on")
    )
    (losses, gradients), (found, others) = first_step(eager), first_step(other)
    assert found == pytest.approx(losses, rel=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-5)
    assert other.method.backbone.passes.sizes, "it did not fall back"


def test_without_a_compiler_the_run_goes_on_with_one_line(tmp_path, data_root):
    """In a process of its own, which finds no C++ compiler and nothing that was compiled before."""
    words = ("method=dualprompt", *harness.SMALL, *NARROW, "scenario.tasks=2", "train.epochs=1", f"data.root={data_root}")
    nowhere = os.environ | {"CXX": "/nowhere/g++", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "OMP_NUM_THREADS": "1"}
    found = []
    for word in ("on", "off"):
        command = [
            sys.executable,
            str(harness.ROOT / "run.py"),
            *words,
            f"machine.compile={word}",
            f"outputs={tmp_path / word}",
        ]
        done = subprocess.run(command, cwd=harness.ROOT, env=nowhere, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        (folder,) = (tmp_path / word).glob("*/*/*/seed0")
        found.append(RunDir(folder))
    lines = [line for line in (found[0].path / "run.log").read_text().splitlines() if "the compiler failed" in line]
    assert len(lines) == 1 and "passes are not compiled from here on" in lines[0] and "/nowhere" in lines[0]
    harness.assert_same_bits(*found)


def test_a_fault_that_is_not_the_compilers_is_raised_and_memory_is_not_tried_twice():
    said, times = [], []
    passes = Passes({2}, CPU, said.append)

    def wrong(backbone, x):
        times.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    passes._form = lambda walk: walk
    with pytest.raises(torch.OutOfMemoryError):
        passes(wrong, None, torch.ones(2))
    assert times == [1]
    with pytest.raises(ZeroDivisionError):
        passes(lambda backbone, x: 1 / 0, None, torch.ones(2))
    assert not said and passes.sizes == {2}


def test_other_sizes_and_adapters_pass_as_they_are_written(small, tmp_path, calls):  # noqa: F811
    trainer = trainer_of(small("ease", "machine.compile=on"), tmp_path)
    trainer.learn(next(trainer.steps()))
    trainer.method.backbone(torch.zeros(7, 3, 32, 32))
    assert not calls


def test_a_copied_backbone_passes_with_its_own_weights(small, tmp_path, calls):  # noqa: F811
    backbone = trainer_of(small("finetune", "machine.compile=on"), tmp_path).method.backbone.eval()
    images = torch.randn(16, 3, 32, 32)
    with torch.no_grad():
        before, teacher = backbone(images), copy.deepcopy(backbone)
        for parameter in backbone.parameters():
            parameter.mul_(1.5)
        assert not torch.allclose(backbone(images), before, atol=1e-2)
        torch.testing.assert_close(teacher(images), before, rtol=1e-4, atol=1e-4)
    assert len(calls) == 3


def test_a_backbone_without_passes_is_named(small, tmp_path):  # noqa: F811
    trainer_of(small("finetune", "family=resnet32", "machine.compile=on"), tmp_path)
    assert "machine.compile=on: ResNet has no passes that can be compiled" in (tmp_path / "run.log").read_text()


def test_sizes_of_parts():
    assert divided(16, 1) == {16} and divided(16, 3) == {5, 6} and divided(2, 3) == {1}
    assert plainly(lambda backbone, x, more: (x, more), None, 1, more=2) == (1, 2)
