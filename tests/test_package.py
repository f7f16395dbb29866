"""The wheel: it holds everything, and `cil` works from an empty folder that is not the repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT, SMALL


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built and unpacked; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("package")
    build = [sys.executable, "-m", "uv", "build", "-q", "--wheel", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*build, "-o", str(folder / "wheel"), str(ROOT)], check=True, capture_output=True)
    (wheel,) = (folder / "wheel").glob("*.whl")
    target = [sys.executable, "-m", "uv", "pip", "install", "-q", "--no-deps", "--target", str(folder / "site"), str(wheel)]
    subprocess.run(target, check=True, capture_output=True)
    return folder / "site"


@pytest.fixture
def typed(installed, tmp_path):
    def call(*words: str, **more: str) -> subprocess.CompletedProcess:
        known = {key: value for key, value in os.environ.items() if not key.startswith(("CIL_", "PYTHONPATH"))}
        return subprocess.run([sys.executable, "-m", "cil", *words], cwd=tmp_path, capture_output=True, text=True,
                              env=known | {"PYTHONPATH": str(installed)} | more)  # fmt: skip

    return call


WORDS = ("method=finetune", "scenario.tasks=5", *SMALL)


def test_a_run_in_an_empty_folder(typed, tmp_path):
    done = typed(*WORDS, "data.features=data/features")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "data"}
    (summary,) = tmp_path.glob("outputs/*/*/*/seed0/summary.json")
    assert '"command": "cil method=finetune' in summary.read_text() and '"git_commit": "version' in summary.read_text()
    again = typed(*WORDS)
    assert "done already: ACC" in again.stdout
    table = typed("tables")
    assert table.returncode == 0 and "finetune" in table.stdout


def test_folders_by_environment(typed, tmp_path):
    done = typed(*WORDS, CIL_OUTPUTS=str(tmp_path / "results"), CIL_DATA=str(tmp_path / "sets"))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"results", "sets"}


def test_a_sweep_and_its_errors(typed, tmp_path):
    done = typed("-m", "method=finetune", "seed=0,1", *WORDS[1:], "log.live=false")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/*/*/*/seed*/DONE"))) == 2
    wrong = typed("methd=finetune")
    assert wrong.returncode == 2 and wrong.stderr == "error: there is no setting methd; did you mean method?\n"
    assert typed("expand", "method=finetune", "seed=0,1").stdout.startswith("cil method=finetune seed=0\n")


def test_the_list_of_commands_fits_a_terminal(typed):
    from cil.commands.cli import COMMANDS

    told = typed().stdout
    assert max(map(len, told.splitlines())) <= 80 and all(f"  {name} " in told for name in COMMANDS)
    for name in COMMANDS:
        helped = typed(name, "--help")
        assert helped.returncode == 0 and helped.stdout, (name, helped.stderr)


def test_the_doors_in_scripts_are_thin():
    for file in (ROOT / "scripts").glob("*.py"):
        assert len(file.read_text().splitlines()) <= 100, file
    assert len((ROOT / "run.py").read_text().splitlines()) <= 10
