"""What several tests need: composing without Hydra's main, running in this process, comparing two runs."""

import matplotlib.figure  # noqa: F401  (here, so that forked children need not import it)

import cil.engine.build
import cil.engine.summary  # noqa: F401
from cil.common.places import CHECKOUT
from cil.contract import difference, record
from cil.launch import run as front_door
from cil.launch.compose import Composer, options
from cil.runs.run_folder import RunDir, run_of

assert CHECKOUT is not None
ROOT = CHECKOUT
CONF = ROOT / "conf"
compose = Composer()  # what `python run.py` with these words composes; each file is read once in a session of tests
SHIPPED = [name for name in options("method") if (ROOT / "docs" / "methods" / f"{name}.md").exists()]  # not a user's own
SMALL = ("dataset.train_per_class=9", "dataset.test_per_class=3", "backbone.weights=null", "backbone.sha256=null",
         "machine=cpu", "log.live=false", "data.features=null")  # fmt: skip


def latin(classes: int) -> tuple[str, ...]:
    """Words for so many characters of the benchmark, at most 30, in place of its hundred."""
    return "dataset._target_=cil.data.datasets.glyphs.alphabet", "+dataset.script=latin", f"+dataset.classes={classes}"


def execute(config: dict) -> RunDir:
    """As run.py does, in this process."""
    run = run_of(config)
    front_door.execute(config, run)
    return run


def losses(run: RunDir) -> list[dict]:
    """The record without what a clock wrote."""
    return record(run)


def assert_same_bits(one: RunDir, two: RunDir) -> None:
    """Accuracies, logged losses and weights of two finished runs."""
    assert (found := difference(one, two)) is None, found
