"""Adding a method is one Python file and one YAML file; the contract test then checks it."""

import json
import re
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
DOCS = ROOT / "docs"


def block(page: str, file: str) -> str:
    """The block of code that follows a file's name on a page of the documentation."""
    after = (DOCS / page).read_text().split(f"`{file}`", 1)[1]
    return re.search(r"```[a-z]+\n(.*?)```", after, re.S).group(1)


GOOD, YAML = block("adding_a_method.md", "cil/methods/mine.py"), block("adding_a_method.md", "conf/method/mine.yaml")
SMALL = ["scenario.tasks=2", "dataset.train_per_class=9", "dataset.test_per_class=3", "machine=cpu"]


@pytest.fixture
def copy(tmp_path):
    """The project in another folder, so that this one stays as it is."""
    for name in ("cil", "conf", "tests", "scripts", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run.py", "pyproject.toml", "README.md", "Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def check(copy, *which: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "pytest", "-k", "mine", *which]
    return subprocess.run(words, cwd=copy, capture_output=True, text=True)


def test_two_files_are_enough(copy):
    (copy / "cil" / "methods" / "mine.py").write_text(GOOD)
    (copy / "conf" / "method" / "mine.yaml").write_text(YAML)
    ended = check(copy, "tests/methods/test_contract.py", "tests/runs/test_conf.py", "tests/test_floors.py")
    assert ended.returncode == 0, ended.stdout
    assert int(ended.stdout.split(" passed")[0].split()[-1]) >= 10
    assert "ACC" in ran(copy, "method=mine")
    assert list(copy.glob("outputs/glyphs_10tasks/mine/*/seed0/DONE"))


def test_the_cached_form_of_the_method_learns_and_encodes_each_image_once(copy):
    (copy / "cil" / "methods" / "mine_cached.py").write_text(block("adding_a_method.md", "cil/methods/mine_cached.py"))
    (copy / "conf" / "method" / "mine.yaml").write_text(YAML.replace("mine.Mine", "mine_cached.MineCached"))
    assert "ACC" in ran(copy, "method=mine", "augment=none")
    (summary,) = copy.glob("outputs/glyphs_10tasks/mine_cached/*/seed0/summary.json")
    assert json.loads(summary.read_text())["image_encodes"] == 100 * (9 + 3)


def test_a_method_without_a_page_leaves_the_documents_green(copy):
    (copy / "cil" / "methods" / "mine.py").write_text(GOOD)
    (copy / "conf" / "method" / "mine.yaml").write_text(YAML)
    which = ["tests/docs/test_generated_docs.py", "tests/docs/test_docs.py", "tests/commands/test_reproduce.py"]
    words = [sys.executable, "-m", "pytest", "-k", "fresh or front_page or results_in or shipped", *which]
    ended = subprocess.run(words, cwd=copy, capture_output=True, text=True)
    assert ended.returncode == 0 and "4 passed" in ended.stdout, ended.stdout


def test_the_backbone_of_the_documentation_learns(copy):
    (copy / "cil" / "backbones" / "two_layers.py").write_text(block("backbones.md", "cil/backbones/two_layers.py"))
    (copy / "conf" / "backbone" / "two_layers.yaml").write_text(block("backbones.md", "conf/backbone/two_layers.yaml"))
    assert "ACC" in ran(copy, "method=finetune", "backbone=two_layers")


def ran(copy, *words: str) -> str:
    ended = subprocess.run([sys.executable, "run.py", *words, *SMALL], cwd=copy, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_slip_in_either_file_is_found(copy):
    (copy / "cil" / "methods" / "mine.py").write_text(GOOD.replace("return {", "raise KeyError; return {") + METHOD)
    (copy / "conf" / "method" / "mine.yaml").write_text(YAML.replace("scale: 1.0", "scael: 1.0"))
    ended = check(copy, "tests/runs/test_conf.py", "tests/test_floors.py")
    for test in ("test_keys_and_signatures_agree_both_ways[method-mine]", "imports_go_down[cil/methods/mine.py]"):
        assert test in ended.stdout
