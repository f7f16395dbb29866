"""Every method on the pretended GPU: it learns, is tested, stopped and resumed there, and its steps do not wait.

A new method is checked by being there.
"""

from dataclasses import replace

import pytest
import torch

from cil.capabilities import HasProjectionSites
from cil.data.scenario import Scenario
from cil.engine import build
from tests import harness
from tests.gpu.on_pretended_gpu import run_of
from tests.methods.test_contract import FEW, METHODS, SCRATCH, StopsAt

MAY_WAIT = {"attriclip": 1}  # how many prompt sets the images of a batch chose decides how much text there is to encode
READS = {"attriclip": 2, "ari": 1}  # waits of a test batch
MODIFIED = [
    ("pet", "method.kind=prompt", "modifier=nsp2"),
    ("pet", "method.kind=lora", "modifier=pgp"),
    ("l2p", "modifier=freeze"),
    ("l2p", "modifier=class_means"),
]


def cases() -> list[tuple[str, ...]]:
    """Each method in its readings, where they differ, and with the modifiers that it can host."""
    found = []
    for method in METHODS:
        paper, released = (harness.compose(f"method={method}", f"reading={reading}") for reading in ("paper", "released"))
        found.append((method,))
        if {**paper, "reading": None} != {**released, "reading": None}:
            found.append((method, "reading=released"))
        target = build.find(paper["method"]["_target_"], "method")
        if issubclass(target, HasProjectionSites):
            found += [(*case, "modifier=pgp") for case in found if case[0] == method]
    return [*found, *MODIFIED]


CASES = cases()


@pytest.fixture
def on_gpu(compose, scenario, monkeypatch):
    """The configuration of a method on two tasks."""

    def two_tasks(config: dict, backbone: torch.nn.Module, images=None):
        """With the images four times over where the released PGP wants as many of them as a token is wide."""
        images, times = scenario.images, 4 if config["modifier"] else 1
        images = replace(images, train=images.train.repeat(times, 1, 1, 1), train_labels=images.train_labels.repeat(times))
        made = Scenario(images, scenario.views, name="small", tasks=3, first=None, order="natural")
        made.sizes = made.sizes[:2]
        return made

    monkeypatch.setattr("cil.engine.build.build_scenario", two_tasks)

    def composed(method: str, *words: str) -> dict:
        more = ("train.epochs=1", f"train.batch_size={48 if 'modifier=pgp' in words else 12}")
        return compose(f"method={method}", *FEW, *SCRATCH.get(method, [()])[0], *more, *words)

    return composed


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_every_method_learns_and_resumes_on_a_gpu_without_waiting(on_gpu, case, tmp_path):
    config = on_gpu(*case)
    stopped, _ = run_of(config, tmp_path, StopsAt(5))
    trainer, seen = run_of(config, tmp_path)
    assert stopped.run.path == trainer.run.path and trainer.matrix.learned == 2
    assert seen.total("batch", "wait") == 0, seen.batch
    assert seen.total("step", "wait") <= MAY_WAIT.get(case[0], 0), seen.step
    assert seen.total("step", "from device") == 0, seen.step
    assert seen.total("evaluation", "wait") <= 2 * (1 + READS.get(case[0], 0)), seen.evaluation  # two tasks of one batch


def test_a_tensor_left_on_the_cpu_is_named_with_its_line(on_gpu, tmp_path, monkeypatch):
    from cil.methods.finetune import Finetune

    learned = Finetune.training_step

    def planted(self, batch, phase):
        losses = learned(self, batch, phase)
        return {**losses, "planted": losses["ce"] * torch.ones(2).prod(0, keepdim=True).expand(3)[:2].sum(0, keepdim=True)}

    monkeypatch.setattr(Finetune, "training_step", planted)
    with pytest.raises(RuntimeError, match="cuda:0 and cpu") as caught:
        run_of(on_gpu("finetune"), tmp_path)
    assert "planted" in [frame.name for frame in caught.traceback]
