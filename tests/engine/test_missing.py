"""What a run or a sweep lacks is told at once and together, before torch is imported or anything is built."""

import subprocess
import sys
from pathlib import Path

import pytest

from cil.data.datasets import places
from cil.engine.build import make
from cil.engine.missing import missing
from cil.launch import run as front_door
from cil.launch.sweep_check import lacking
from tests.data.datasets import miniature
from tests.harness import compose, options

WORDS = ("method=attriclip", "backbone=clip_vit_b16", "scenario=cifar100_10tasks", "scenario.tasks=7")
BEGINNINGS = ("weights clip_vit_b16 are not on this machine", "dataset cifar100 is not there",
              "cifar100_10tasks: 100 classes do not split into 7 equal tasks")  # fmt: skip


@pytest.fixture
def nowhere(monkeypatch, tmp_path) -> Path:
    """An empty folder without a network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begin(lines: list[str]) -> list[bool]:
    return [line.startswith(words) for line, words in zip(lines, BEGINNINGS, strict=True)]


def test_all_that_a_run_lacks_is_told_together_without_torch(nowhere):
    code = (
        "import sys; from cil.launch import run; code = run.front_door(); "
        "print(sorted({'torch', 'timm', 'open_clip'} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *WORDS], capture_output=True, text=True, cwd=nowhere,
                          env=front_door.places.importable())  # fmt: skip
    assert done.returncode == 2 and done.stdout == "[]\n"
    assert begin([line.removeprefix("error: ") for line in done.stderr.splitlines()]) == [True] * 3
    assert "Traceback" not in done.stderr and not list(nowhere.rglob("seed*"))


@pytest.mark.parametrize(
    "word, line", [("{a: 1}", "scenario._target_={'a': 1} is not a word"), ("''", "scenario has no _target_; choose one")]
)
def test_a_target_without_a_name_is_told_before_what_is_missing(nowhere, monkeypatch, capsys, word, line):
    monkeypatch.setattr(sys, "argv", ["run.py", *WORDS[:3], f"scenario._target_={word}"])
    assert front_door.front_door() == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {line}") and told.count("\n") == 1


def test_every_line_says_what_to_type(nowhere):
    assert all("type " in line or "set scenario." in line for line in missing(compose(*WORDS)))


def test_debug_says_how_to_do_without_weights(nowhere):
    assert missing(compose(*WORDS, "debug=true"))[0].endswith("or size=tiny to try everything with a small network")


def test_what_is_there_is_not_missed(data_root):
    assert missing(compose("method=l2p", f"data.root={data_root}")) == []


def test_images_that_are_there_are_listed_for_the_same_answer(nowhere):
    miniature.lay({f"birds/{name}/{n}.jpg": miniature.jpeg(n) for name in ("crow", "gull", "finch") for n in range(5)}, nowhere)
    words = ("scenario=folder", "dataset.path=birds", "scenario.tasks=2", "method=finetune", f"data.root={nowhere}")
    first, second = missing(compose(*words))
    assert first.startswith("weights vit_b16_in21k are not on this machine")
    assert second.startswith("folder: 3 classes do not split into 2 equal tasks")


def test_a_logger_that_is_not_installed_is_told_with_the_rest(nowhere, monkeypatch):
    monkeypatch.setattr("cil.engine.missing.installed", lambda library: False)
    lines = missing(compose(*WORDS, "log=wandb"))
    assert lines[0] == "wandb is not installed; type pip install wandb, or log=console" and begin(lines[1:]) == [True] * 3


def test_a_sweep_tells_each_thing_once(nowhere):
    lines, lack, runs = lacking(["-m", *WORDS[:3], "scenario.tasks=7,10", "seed=0,1,2", "optim.lr=0.1,0.2"])
    assert (begin(lines), lack, runs) == ([True] * 3, 12, 12)
    lines, lack, runs = lacking([*WORDS[:3], "scenario.tasks=7,10", "hydra/launcher=submitit_slurm"])
    assert [line.startswith(BEGINNINGS[2]) for line in lines] == [True] and (lack, runs) == (1, 2), "nodes have other files"


def test_a_sweep_of_which_nothing_can_run_ends_at_once(nowhere, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["run.py", "-m", *WORDS, "seed=0,1"])
    assert front_door.front_door() == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert begin([line.removeprefix("error: ") for line in lines[:3]]) == [True] * 3
    assert lines[3:] == ["this concerns 2 of 2 runs"] and not out


@pytest.mark.parametrize("name", options("dataset"))
def test_what_is_known_of_a_dataset_without_reading_it_is_true(name, tmp_path, data_root):
    node = compose(f"dataset={name}")["dataset"]
    known = places.parts(node)
    if known is None:
        assert name == "folder"
    elif not list(places.absent(known, tmp_path)) and not any(place.any_of for place in known):
        made = make(node | ({"train_per_class": 1, "test_per_class": 1} if name == "noise" else {}), "dataset", root=data_root)
        assert sum(place.classes for place in known) == len(made.class_names)
        assert {place.name for place in known} == {made.name} or [p.name for p in known] == [part for part, _ in made.parts]
