"""A package outside the repository: the page's example, and a modifier, a backbone and a dataset beside it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cil.common.errors import UserError
from cil.common.plugins import VARIABLE, activate, identities
from tests.harness import ROOT, SMALL

PAGE = (ROOT / "docs" / "plugins.md").read_text()
MODIFIER = """
from cil.method import Method
from cil.modifier import Modifier
from cil.data.scenario import Task


class Counts(Modifier):
    def __init__(self, *, start: int) -> None:
        self.tasks = start

    def attach(self, method: Method) -> None:
        pass

    def end_task(self, method: Method, task: Task) -> None:
        self.tasks += 1

    def state_dict(self) -> dict:
        return {"tasks": self.tasks}

    def load_state_dict(self, state: dict) -> None:
        self.tasks = state["tasks"]

    def facts(self) -> dict:
        return {"tasks": self.tasks}
"""
BACKBONE = """
from cil.backbones.resnet import resnet


def mine(*, weights, sha256, root=None):
    return resnet(width=8, blocks=1, weights=weights, sha256=sha256, image={"size": 32, "norm": "half"}, root=root)
"""
DATASET = """
import torch

from cil.data.images import Images


def stripes(root: str, *, each: int) -> Images:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(each)
    pixels = (torch.rand(len(labels), 32, 3, 32, generator=random) * 100 + 30 * labels[:, None, None, None]).to(torch.uint8)
    return Images("stripes", pixels, labels, pixels, labels, ("a", "b", "c", "d"))
"""


def write_package(place: Path) -> None:
    """Write mylab: the files of the page, a modifier, a backbone and a dataset."""
    folder = place / "mylab"
    for name, text in re.findall(r"`mylab/(\S+)`:\n\n```\w+\n(.*?)```", PAGE, re.S) or []:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    files = {
        "__init__.py": "", "counts.py": MODIFIER, "net.py": BACKBONE, "data.py": DATASET,
        "conf/modifier/counts.yaml": "# Counts tasks.\ncounts: {_target_: mylab.counts.Counts, start: 0}\n",
        "conf/backbone/net.yaml": "# A network.\n_target_: mylab.net.mine\nweights: null\nsha256: null\n",
        "conf/dataset/stripes.yaml": "# Stripes.\n_target_: mylab.data.stripes\neach: 10\n",
        "conf/scenario/stripes_2tasks.yaml": "# @package _global_\n# Two tasks.\ndefaults:\n  - override /size: tiny\n"
        "  - override /dataset: stripes\n  - override /augment: none\nscenario: {_target_: cil.data.scenario.Scenario, "
        "name: stripes_2tasks, tasks: 2, first: null, order: natural}\n",
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def lab(tmp_path):
    write_package(tmp_path)
    return tmp_path


def cil(lab, *words: str, **more: str) -> subprocess.CompletedProcess:
    known = {key: value for key, value in os.environ.items() if not key.startswith("CIL_")}
    command = [sys.executable, "-m", "cil", *words, "machine=cpu", "log.live=false"]
    return subprocess.run(command, cwd=lab, capture_output=True, text=True, env=known | {"PYTHONPATH": str(ROOT)} | more)


def test_a_method_of_the_page(lab):
    done = cil(lab, "plugins=[mylab]", "method=scaled", "scenario.tasks=5", *SMALL)
    assert done.returncode == 0, done.stderr
    (file,) = lab.glob("outputs/glyphs_10tasks/scaled/*/seed0/summary.json")
    summary = json.loads(file.read_text())
    assert re.fullmatch("no version, source [0-9a-f]{12}", summary["identity"]["plugins"]["mylab"])
    assert "done already" in cil(lab, "method=scaled", "scenario.tasks=5", *SMALL, CIL_PLUGINS="mylab").stdout
    sweep = cil(lab, "-m", "plugins=[mylab]", "method=scaled", "method.power=0.3,0.7", "scenario.tasks=5", *SMALL)
    assert sweep.returncode == 0, sweep.stderr
    assert len(list(lab.glob("outputs/glyphs_10tasks/scaled/*/seed0/DONE"))) == 3


def test_a_modifier_a_backbone_and_a_dataset(lab):
    words = (
        "scenario=stripes_2tasks",
        "backbone=net",
        "method=finetune",
        "modifier=counts",
        "train.epochs=2",
        "train.batch_size=5",
    )
    done = cil(lab, "plugins=[mylab]", *words)
    assert done.returncode == 0, done.stderr
    (folder,) = lab.glob("outputs/stripes_2tasks/finetune+counts/*/seed0")
    assert '"tasks": 2' in (folder / "events.jsonl").read_text()


def test_without_its_name_it_is_unknown(lab):
    done = cil(lab, "method=scaled")
    assert done.returncode == 2
    assert done.stderr == "error: method=scaled is not known; the package mylab has it: add plugins=[mylab]\n"
    elsewhere = cil(lab / "mylab", "method=scaled").stderr
    assert elsewhere.endswith("did you mean slca? (or add plugins=[PACKAGE], if a package of yours has it)\n")
    assert cil(lab, "method=scaled", "method=finetun").stderr.endswith("did you mean finetune?\n")
    other = cil(lab, "plugins=[theirlab]", "method=scaled")
    assert other.stderr == (
        "error: plugins=theirlab is not a package that Python finds; install it, or start from its parent folder\n"
    )
    refused = cil(lab, "method=class_mean", "method._target_=mylab.scaled.Scaled", "+method.power=1.0")
    assert "of yours type plugins=[mylab]" in refused.stderr


@pytest.mark.parametrize("name, text, told", [
    ("method/finetune.yaml", "# @package _global_\n", "method/finetune.yaml has the name of a file of this project, which"),
    ("method/own.yaml", "method: {_target_: mylab.scaled.Scaled}\n", "make its first line # @package _global_"),
    ("modifier/own.yaml", "own:\n  a: 1\n  a: 2\n", "modifier/own.yaml has a twice, the first in line 2; leave one out"),
    ("modifier/own.yaml", "own:\n  a: [1\n", r"modifier/own.yaml cannot be read as YAML \(line 3: expected ',' or '\]'"),
])  # fmt: skip
def test_a_mistake_in_its_configuration_is_told_with_the_file(lab, monkeypatch, name, text, told):
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.chdir(lab)
    monkeypatch.syspath_prepend(str(lab))
    file = lab / "mylab" / "conf" / name
    before = file.read_text() if file.exists() else None
    file.write_text(text)
    with pytest.raises(UserError, match=told):
        activate(["plugins=[mylab]"])
    file.unlink() if before is None else file.write_text(before)
    assert activate(["plugins=[mylab]"]) == ["mylab"]


@pytest.mark.parametrize("name, text", [
    ("method/parts/common.yaml", "learn: all\n"),
    ("method/own.yaml", "#   @package   _global_\nmethod: {_target_: mylab.scaled.Scaled}\n"),
    ("modifier/._own.yaml", "\0\0[\n"),
])  # fmt: skip
def test_other_files_are_left_alone(lab, monkeypatch, name, text):
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.chdir(lab)
    monkeypatch.syspath_prepend(str(lab))
    file = lab / "mylab" / "conf" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    assert activate(["plugins=[mylab]"]) == ["mylab"]


def test_a_changed_source_changes_the_identity(lab, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.syspath_prepend(str(lab))
    monkeypatch.chdir(lab)
    assert activate(["plugins=[mylab]"]) == ["mylab"] and activate() == ["mylab"]
    before = identities()
    (lab / "mylab" / "scaled.py").write_text("# another\n")
    assert identities() != before
    monkeypatch.setenv(VARIABLE, "nolab")
    with pytest.raises(UserError, match="plugins=nolab is not a package"):
        activate()


def test_the_contract_tells_what_a_method_breaks(lab):
    file = lab / "mylab" / "scaled.py"
    text, buffer = file.read_text(), 'self.register_buffer("means", torch.empty(0, backbone.width))'
    assert buffer in text
    file.write_text(text.replace(buffer, "self.means = torch.empty(0, backbone.width)"))
    done = cil(lab, "test-method", "mylab.scaled")
    assert done.returncode == 1 and "breaks 1 of 7 promises" in done.stdout
    assert done.stdout.count("✓") == 5 and all(len(line) <= 80 for line in done.stdout.splitlines() if line[0] in "✓✗–")
    assert "✗ resumes to the same bits" in done.stdout and "what survives a restart is a parameter" in done.stdout
    wrong = cil(lab, "test-method", "mylab.scald")
    assert wrong.returncode == 2 and wrong.stderr == "error: method=scald is not known; did you mean scaled?\n"
