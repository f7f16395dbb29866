"""Every method on 1, 2, 5 and 20 images a class: nothing ends below chance, or far below class means, without a warning."""

import math

import pytest

from tests import harness
from tests.fuzz.record import TIMES, record

SIZES = (1, 2, 5, 20)
METHODS = [name for name in harness.SHIPPED if name in harness.options("method")]
GRID = [(method, size) for method in METHODS for size in SIZES]


def summary(outputs, data_root, method: str, size: int) -> dict:
    few = ("scenario.tasks=4", f"dataset.train_per_class={size}", "dataset.test_per_class=5", "machine=cpu", "log.live=false")
    config = harness.compose(f"method={method}", *few, f"data.root={data_root}", f"outputs={outputs}")
    run = harness.run_of(config)
    return run.summary() if run.is_done else harness.execute(config).summary()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("few")


@pytest.mark.parametrize(("method", "size"), GRID if TIMES > 1 else [(method, 2) for method in METHODS[::3]])
def test_a_number_that_collapsed_is_marked(method, size, place, data_root):
    found, means = summary(place, data_root, method, size), summary(place, data_root, "class_mean", size)
    acc, pretrained = found["class_il"]["acc"], found["config"]["backbone"]["weights"] is not None
    assert math.isfinite(acc) and all(math.isfinite(value) for value in found["task_il"].values() if value is not None)
    low = acc <= 1.0 or (pretrained and acc < 0.5 * means["class_il"]["acc"])
    record("few images", runs=1, low=int(low), marked=int(low and bool(found["warnings"])))
    assert not low or found["warnings"], f"ACC {acc}, class means {means['class_il']['acc']}"
