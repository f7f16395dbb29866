"""How far patches look: recorded after each task, drawn for a run, and against a count over all pairs."""

import json
import math

import numpy as np
import pytest
import torch

from cil.commands.pictures import main
from cil.engine.build import make
from cil.engine.evaluation import locality
from cil.pictures.accuracy import COLOURS
from cil.pictures.locality import draw_nonlocality, everywhere
from tests import harness

WORDS = ("method=dytox", "backbone=convit_tiny_lpa", "scenario.tasks=2", "dataset.train_per_class=2",
         "dataset.test_per_class=1", "train.epochs=1", "method.later_epochs=1", "method.tune_epochs=1",
         "method.memory=100")  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("locality")
    config = harness.compose(f"outputs={folder / 'outputs'}", f"data.root={folder}", *harness.SMALL, *WORDS)
    return harness.execute(config)


def test_every_task_tells_how_far_patches_look(run):
    told = [event["nonlocality"] for event in map(json.loads, run.events.read_text().splitlines()) if "nonlocality" in event]
    assert len(told) == 2 and all(len(blocks) == 3 for blocks in told)
    assert all(0 < value < 6 for blocks in told for value in blocks)


def test_nonlocality_is_the_mean_over_images_heads_and_queries(scenario):
    backbone = make(harness.compose("backbone=convit_tiny")["backbone"], "backbone").eval()
    found = locality(backbone, scenario[0].test, 5, torch.device("cpu"))["nonlocality"]
    with torch.no_grad():
        maps = backbone.maps(scenario[0].test.batch(torch.arange(12)).images)[1].mean((0, 1))
    slow = sum(float(maps[n, m]) * math.dist(divmod(n, 8), divmod(m, 8)) for n in range(64) for m in range(64)) / 64
    assert found[1] == pytest.approx(slow, abs=1e-3)
    assert locality(torch.nn.Identity(), scenario[0].test, 5, torch.device("cpu")) == {}


def test_a_patch_that_looks_everywhere_alike():
    assert everywhere(8) == pytest.approx(4.1365, abs=1e-4) and everywhere(14) == pytest.approx(7.2808, abs=1e-4)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_command_draws_maps_and_lines(run, kind, capsys):
    assert main([str(run.path), "--format", kind]) == 0
    told = capsys.readouterr().out
    for name in ("attention", "nonlocality"):
        file = run.path / "pictures" / f"{name}.{kind}"
        assert str(file) in told and file.stat().st_size > 3000


def test_maps_after_a_task(run, capsys):
    assert main([str(run.path), "--task", "2"]) == 0
    assert (run.path / "pictures" / "attention_task_02.png").exists()
    assert main([str(run.path), "--task", "1"]) == 2
    assert "machine.keep_checkpoints=all" in capsys.readouterr().err


def test_a_line_has_one_colour_in_every_column(tmp_path):
    runs = np.ones((1, 2, 1))
    file = tmp_path / "lines.svg"
    draw_nonlocality(file, {"raw": {"b": runs}, "dytox": {"a": runs, "b": runs}}, 2.0)
    text = file.read_text()
    first, second = (text.count(f"stroke: {colour}") for colour in COLOURS[:2])  # "b" comes first, in both columns
    assert first > second > 0
