"""The recipes of networks from scratch against the table of their specification (section 4.1)."""

import pytest

from tests.harness import compose

#           later tasks                              the first one
TABLE = {  # epochs, milestones, decay
    "finetune": ((80, [40, 70], 2e-4), (200, [60, 120, 170], 5e-4)),
    "ewc": ((180, [70, 120, 150], 2e-4), (200, [60, 120, 170], 5e-4)),
    "lwf": ((250, [60, 120, 180, 220], 2e-4), (200, [60, 120, 160], 5e-4)),
    "icarl": ((170, [80, 120], 2e-4), (200, [60, 120, 170], 5e-4)),
    "bic": ((170, [60, 100, 140], 2e-4), (170, [60, 100, 140], 2e-4)),
    "der_mcg": ((170, [80, 120, 150], 2e-4), (200, [60, 120, 170], 5e-4)),
}


@pytest.mark.parametrize("method", TABLE)
def test_pycils_schedules(method):
    config = compose(f"experiment=r32/{method}")
    later, first = TABLE[method]
    train, schedule = config["train"], config["schedule"]
    assert (train["epochs"], schedule["at"], config["optim"]["weight_decay"]) == later
    own = train["first"]
    assert (own["epochs"], own["schedule"]["at"], own["optim"]["weight_decay"]) == first
    assert (config["optim"]["lr"], train["batch_size"], schedule["factor"]) == (0.1, 128, 0.1)
    assert config["scenario"]["order"] == "numpy:1993" and config["backbone"]["blocks"] == 5
    assert config["method"].get("memory", 2000) == 2000


def test_what_a_reading_decides():
    released = lambda method: compose(f"experiment=r32/{method}", "reading=released")["method"]  # noqa: E731
    paper = lambda method: compose(f"experiment=r32/{method}")["method"]  # noqa: E731
    assert (paper("icarl")["loss"], released("icarl")["loss"]) == ("sigmoids", "softmax")
    assert (paper("bic")["double_softmax"], released("bic")["double_softmax"]) == (False, True)
    assert (paper("ewc")["fisher"], released("ewc")["fisher"], released("ewc")["strength"]) == ("sample", "batch", 1000.0)


def test_resnet_18_has_the_same_schedule():
    small, large = compose("experiment=r32/lwf"), compose("experiment=r18/lwf")
    assert all(small[key] == large[key] for key in ("train", "schedule", "optim", "method"))
    assert large["scenario"]["name"] == "imagenet100_10tasks" and large["backbone"]["_target_"] != small["backbone"]["_target_"]
