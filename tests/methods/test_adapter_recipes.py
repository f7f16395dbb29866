"""The table of RAPF's settings (its specification, section 2.1), and that what is compared differs in the method alone."""

import re

import pytest

from tests.harness import ROOT, compose

# batch, beta, classes drawn, bias, threshold, shrinkage
TABLE = {
    "cifar100_10tasks": (100, 2, 2, 0.6, 0.55, False),
    "cifar100_20tasks": (100, 2, 4, 0.6, 0.55, False),
    "cifar100_b50_inc10": (100, 2, 2, 0.6, 0.55, False),
    "cifar100_b50_inc5": (50, 2, 4, 0.6, 0.55, False),
    "imagenet100_10tasks": (128, 1, 2, 0.5, 0.65, False),
    "imagenet100_b0_inc20": (128, 0.5, 2, 0.5, 0.65, False),
    "imagenet_r_20tasks": (60, 2, 5, 0.7, 0.60, True),
    "imagenet_r_10tasks": (64, 1, 5, 0.7, 0.65, True),
    "imagenet_r_b0_inc40": (64, 0.5, 5, 0.7, 0.60, True),
    "imagenet_r_b100_inc10": (64, 2, 5, 0.7, 0.65, True),
    "imagenet_r_b100_inc20": (64, 1, 5, 0.7, 0.65, True),
    "cub200_10tasks": (32, 1, 10, 0.8, 0.65, True),
}
SIZES = {  # tasks, classes of the first
    "cifar100_b50_inc10": (6, 50), "cifar100_b50_inc5": (11, 50), "imagenet100_b0_inc20": (5, None),
    "imagenet_r_b0_inc40": (5, None), "imagenet_r_b100_inc10": (11, 100), "imagenet_r_b100_inc20": (6, 100),
}  # fmt: skip
FILES = sorted((ROOT / "conf" / "experiment" / "rapf").glob("*.yaml"))


def test_every_experiment_is_in_the_table():
    assert {file.stem for file in FILES} == set(TABLE)


@pytest.mark.parametrize("method", ["rapf", "awpf"])
@pytest.mark.parametrize("name", TABLE)
def test_settings(name, method):
    config = compose(f"experiment=rapf/{name}", f"method={method}")
    own = config["method"]
    found = (config["train"]["batch_size"], own["beta"], own["classes_drawn"], own["bias"], own["threshold"], own["shrinkage"])
    assert found == TABLE[name]
    assert own["hinge"] == (1 if method == "rapf" else 0) and own["margin"] == 0.1
    assert own["templates"] == ["a good photo of a {}."] and own["underscores"] == (config["dataset"].get("classes") != "first")
    assert config["optim"]["_target_"] == "torch.optim.Adam" and config["optim"]["lr"] == 0.001
    assert (config["train"]["epochs"], config["schedule"]["at"], config["schedule"]["factor"]) == (15, [4, 10], 0.1)
    views = [{"flip": 0.0, **config["augment"][split]} for split in ("train", "test")]
    for view in views:
        assert (view["crop"], view["resize"], view["filter"], view["flip"]) == ("centre", 224, "bicubic", 0)
    if name in SIZES:
        assert (config["scenario"]["tasks"], config["scenario"]["first"]) == SIZES[name]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_rows_of_a_command_share_images_order_and_view(file):
    methods = re.search(r"experiment=rapf/\S+ method=(\S+)", file.read_text())[1].split(",")
    shared = [compose(f"experiment=rapf/{file.stem}", f"method={method}") for method in methods]
    for config in shared[1:]:
        assert config["dataset"] == shared[0]["dataset"] and config["scenario"] == shared[0]["scenario"]
        assert config["augment"]["test"] == shared[0]["augment"]["test"]


@pytest.mark.parametrize("scenario", sorted(file.stem for file in (ROOT / "conf" / "scenario").glob("*.yaml")))
@pytest.mark.parametrize("method", ["rapf", "awpf", "bofa", "mg_clip", "proof"])
def test_no_scenario_leaves_training_to_chance(scenario, method):
    more = ["dataset.path=x"] if scenario == "folder" else []
    train, test = (compose(f"scenario={scenario}", f"method={method}", *more)["augment"][split] for split in ("train", "test"))
    keys = ("crop", "resize") if train["crop"] == "centre" else ("crop",)
    assert train["crop"] in ("centre", "whole") and not train.get("flip")
    assert [train.get(key) for key in keys] == [test.get(key) for key in keys] and train.get("filter", "bilinear") == test[
        "filter"
    ]
