"""The wheel, in a fresh virtual environment: it holds everything, and `cil` works from an empty folder.

The environment borrows the dependencies of this one. With TEST_WHEEL=1 (`make test-wheel`) they are installed too, so that what
pyproject.toml forgets is found.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.docs.test_plugins import write_package
from tests.harness import ROOT, SMALL

UV = [sys.executable, "-m", "uv"]
REAL = os.environ.get("TEST_WHEEL") == "1"
PACKAGE = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "mylab"
version = "0.3"
dependencies = ["cil"]

[project.entry-points."cil.plugins"]
mylab = "mylab"
"""


def uv(*words: object) -> None:
    done = subprocess.run([*UV, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The bin folder of a fresh environment with the wheel."""
    folder = tmp_path_factory.mktemp("package")
    uv("build", "-q", "--wheel", "--no-build-isolation", "--python", sys.executable, "-o", folder / "wheel", ROOT)
    (wheel,) = (folder / "wheel").glob("*.whl")
    uv("venv", "-q", "--python", sys.executable, folder / "fresh")
    if REAL:
        reached = subprocess.run([*UV, "pip", "install", "-q", "--link-mode=hardlink", "-c",
                                  ROOT / "requirements.lock", "-p", folder / "fresh", wheel],
                                 capture_output=True, text=True)  # fmt: skip
        if reached.returncode and "network" in reached.stderr.lower():
            pytest.skip(f"the packages are neither in uv's cache nor to be had: {reached.stderr.splitlines()[0]}")
        assert reached.returncode == 0, reached.stderr
    else:
        uv("pip", "install", "-q", "--no-deps", "-p", folder / "fresh", wheel)
        (site,) = (folder / "fresh" / "lib").glob("python*/site-packages")
        (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"])  # its own .pth files are not read
    return folder / "fresh" / "bin"


@pytest.fixture
def typed(installed, tmp_path):
    def call(*words: str, **more: str) -> subprocess.CompletedProcess:
        known = {key: value for key, value in os.environ.items() if not key.startswith(("CIL_", "PYTHONPATH"))}
        return subprocess.run([installed / "cil", *words], cwd=tmp_path, capture_output=True, text=True, env=known | more)

    return call


def test_the_package_is_that_of_the_wheel(installed, tmp_path):
    asked = [installed / "python", "-c", "import cil; print(cil.__file__)"]
    where = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"})
    assert Path(where.stdout).is_relative_to(installed.parent)


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


def test_a_package_of_four_files_runs_through_its_entry_point(installed, typed, tmp_path_factory, tmp_path):
    """A method, a modifier, a backbone and a dataset, installed; then its contract."""
    source = tmp_path_factory.mktemp("mylab")
    write_package(source)
    (source / "pyproject.toml").write_text(PACKAGE)
    uv("pip", "install", "-q", "-p", installed.parent, source, "--no-deps", *([] if REAL else ["--no-build-isolation"]))
    try:
        words = ("scenario=stripes_2tasks", "backbone=net", "method=finetune", "modifier=counts", "train.epochs=2",
                 "train.batch_size=5", "machine=cpu", "log.live=false")  # fmt: skip
        done = typed(*words)
        assert done.returncode == 0, done.stderr
        (summary,) = tmp_path.glob("outputs/stripes_2tasks/finetune+counts/*/seed0/summary.json")
        assert '"mylab": "0.3, source ' in summary.read_text()
        kept = typed("test-method", "mylab.scaled", "modifier=counts")
        assert kept.returncode == 0 and "mylab.scaled keeps the contract" in kept.stdout, kept.stdout + kept.stderr
    finally:
        uv("pip", "uninstall", "-q", "-p", installed.parent, "mylab")


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
