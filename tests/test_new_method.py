"""Adding a method is one Python file and one YAML file; the contract test then checks it."""

import shutil
import subprocess
import sys

import pytest

from tests.harness import ROOT

METHOD = '''
"""Nearest class mean by Euclidean distance."""

import torch

from cil.methods import class_mean as _no  # a tenant must not know another: the floors test says so
'''
GOOD = '''
"""A linear head on a frozen backbone, for the new classes only."""

import torch.nn.functional as F
from torch import Tensor, nn

from cil.data import Batch
from cil.method import Losses, Method, Phase
from cil.modules.heads import GrowingLinear
from cil.scenario import Task


class Mine(Method):
    def __init__(self, backbone: nn.Module, *, scale: float) -> None:
        super().__init__()
        self.backbone, self.scale, self.head = backbone, scale, GrowingLinear(backbone.width)

    def begin_task(self, task: Task) -> None:
        self.head.grow(len(task.seen))

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("train", task, task.train, list(self.head.parameters()))]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        return {"ce": F.cross_entropy(self.predict(batch.images), batch.labels)}

    def predict(self, images: Tensor) -> Tensor:
        return self.scale * self.head(self.backbone(images))
'''
YAML = """# @package _global_
# A method of one's own.
defaults:
  - override /optim: sgd
method: {_target_: cil.methods.mine.Mine, scale: 1.0}
optim: {lr: 0.1}
"""


@pytest.fixture
def copy(tmp_path):
    """The project in another folder, so that this one stays as it is."""
    for name in ("cil", "conf", "tests", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def check(copy, *which: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "pytest", "-k", "mine", *which]
    return subprocess.run(words, cwd=copy, capture_output=True, text=True)


def test_two_files_are_enough(copy):
    (copy / "cil" / "methods" / "mine.py").write_text(GOOD)
    (copy / "conf" / "method" / "mine.yaml").write_text(YAML)
    ended = check(copy, "tests/methods/test_contract.py", "tests/test_conf.py", "tests/test_floors.py")
    assert ended.returncode == 0, ended.stdout
    assert int(ended.stdout.split(" passed")[0].split()[-1]) >= 10
    words = ["method=mine", "scenario.tasks=2", "dataset.train_per_class=9", "dataset.test_per_class=3", "machine=cpu"]
    ended = subprocess.run([sys.executable, "run.py", *words], cwd=copy, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "ACC" in ended.stdout and list(copy.glob("outputs/glyphs_10tasks/mine/*/seed0/DONE"))


def test_a_slip_in_either_file_is_found(copy):
    (copy / "cil" / "methods" / "mine.py").write_text(GOOD.replace("return {", "raise KeyError; return {") + METHOD)
    (copy / "conf" / "method" / "mine.yaml").write_text(YAML.replace("scale", "scael"))
    ended = check(copy, "tests/test_conf.py", "tests/test_floors.py")
    for test in ("test_keys_and_signatures_agree_both_ways[method-mine]", "imports_go_down[cil/methods/mine.py]"):
        assert test in ended.stdout
