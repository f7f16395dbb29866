"""What several tests need: composing without Hydra's main, running in this process, comparing two runs."""

import json
from pathlib import Path

import matplotlib.figure  # noqa: F401  (here, so that forked children need not import it)
import torch

import cil.engine.build
import cil.engine.summary  # noqa: F401
from cil.commands import run as front_door
from cil.commands.compose import compose, options  # noqa: F401
from cil.common.places import CHECKOUT
from cil.runs.run_folder import RunDir, address, read_matrices

assert CHECKOUT is not None
ROOT = CHECKOUT
CONF = ROOT / "conf"
SHIPPED = [name for name in options("method") if (ROOT / "docs" / "methods" / f"{name}.md").exists()]  # not a user's own
SMALL = ("dataset.train_per_class=9", "dataset.test_per_class=3", "backbone.weights=null", "backbone.sha256=null",
         "machine=cpu", "log.live=false", "data.features=null")  # fmt: skip


def run_of(config: dict) -> RunDir:
    return RunDir(Path(config["outputs"]) / address(config))


def execute(config: dict) -> RunDir:
    """As run.py does, in this process."""
    run = run_of(config)
    front_door.execute(config, run)
    return run


def losses(run: RunDir) -> list[dict]:
    """The record without what a clock wrote."""
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in run.events.read_text().splitlines()]


def assert_same_bits(one: RunDir, two: RunDir) -> None:
    """Accuracies, logged losses and weights of two finished runs."""
    assert losses(one) == losses(two)
    first, second = read_matrices(one.path), read_matrices(two.path)
    assert first.keys() == second.keys()
    for left, right in ((first[name], second[name]) for name in first):
        assert (torch.from_numpy(left.correct).nan_to_num(-1) == torch.from_numpy(right.correct).nan_to_num(-1)).all()
    left, right = (run.load(run.newest)["method"] for run in (one, two))
    assert left.keys() == right.keys()
    for key in left:
        assert torch.equal(left[key], right[key]) if isinstance(left[key], torch.Tensor) else left[key] == right[key], key
