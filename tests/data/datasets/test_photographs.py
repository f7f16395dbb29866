"""The experiments on photographs: what they are, and that each runs, on a few images and with untrained weights."""

import pytest

from cil.report.documents import recovered
from tests.data.datasets import miniature
from tests.harness import CONF, compose, execute

NAMES = sorted(file.stem for file in (CONF / "experiment" / "photographs").glob("*_10tasks.yaml"))  # with a pre-trained network
BOUNDS = ("freeze", "class_means")
HOSTS = (("l2p", "none", "paper"), ("l2p", "pgp", "released"), ("dualprompt", "pgp", "paper"))
SMALL = [f"+backbone.changes.{key}" for key in ("depth=6", "embed_dim=24", "num_heads=3")]


@pytest.mark.parametrize("name", NAMES)
def test_no_view_has_a_crop_in_it(name):
    """So that the feature cache has what a run asks the frozen network."""
    config = compose(f"experiment=photographs/{name}", "method=l2p")
    assert config["augment"]["train"]["crop"] == config["augment"]["test"]["crop"] == "whole"
    assert config["backbone"]["weights"] == "vit_s14_photographs_selfsup" and config["backbone"]["image"]["size"] == 98
    other = compose(f"experiment=photographs/{name}", "method=l2p", "backbone=vit_s14_photographs")
    assert {key for key in config if config[key] != other[key]} == {"backbone"}


def rows():
    for name in NAMES:
        hosts = [(f"method={host}", f"modifier={modifier}", f"reading={reading}") for host, modifier, reading in HOSTS]
        yield from ((name, *words) for words in hosts)
    on_the_page = [
        *recovered.ROWS[recovered.FIRST],
        *(f"{host} modifier={name}" for host in recovered.FEATURES for name in BOUNDS),
        *(row.replace(" dataset.train_per_class=40", "") for row in recovered.RELEASED),
    ]
    yield from (("half_10tasks", *f"method={words}".split()) for words in on_the_page)


@pytest.mark.parametrize("words", rows(), ids=" ".join)
def test_each_runs_on_a_few_images(tmp_path, words):
    name, *row = words
    tasks = 2 if name.startswith("half") else 3
    train = 24 if "reading=released" in row else 3  # that reading takes as many images a task as the network is wide
    own = ["method.components=24"] if "method=coda_prompt" in row else []  # at right angles in that many dimensions
    own += ["method.features=100"] if "method=ranpac" in row else []
    miniature.zipped(miniature.tinyimagenet(train), tmp_path / "tiny-imagenet-200.zip")
    few = ["dataset.md5=null", f"dataset.train_per_class={train}", "dataset.test_per_class=2"]
    run = execute(compose(
        f"experiment=photographs/{name}", *row, *few, f"scenario.tasks={tasks}", "backbone.weights=null",
        *SMALL, *own, f"outputs={tmp_path / 'outputs'}", f"data.root={tmp_path}", "data.features=null",
        "machine=cpu", "log.live=false",
    ))  # fmt: skip
    assert 0 <= run.summary()["class_il"]["acc"] <= 100


@pytest.mark.parametrize("backbone", ["convit_tiny_plain", "convit_tiny", "convit_tiny_lpa"])
def test_attentions_run_on_photographs(tmp_path, backbone):
    miniature.zipped(miniature.tinyimagenet(4), tmp_path / "tiny-imagenet-200.zip")
    few = ["dataset.md5=null", "dataset.train_per_class=4", "dataset.test_per_class=2", "method.memory=2", "scenario.tasks=2"]
    run = execute(compose(
        "experiment=photographs/dytox", f"backbone={backbone}", *few, f"outputs={tmp_path / 'outputs'}",
        f"data.root={tmp_path}", "machine=cpu", "log.live=false",
    ))  # fmt: skip
    assert 0 <= run.summary()["class_il"]["acc"] <= 100
