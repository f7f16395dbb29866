"""Every option of every group composes, and YAML keys and signatures agree both ways."""

import inspect
import re

import pytest
import yaml

from cil.common.errors import UserError
from cil.common.switches import settings_of
from cil.data.datasets.places import PREPARED
from cil.engine.build import find
from cil.runs.settings import usual_values
from tests.harness import CONF, ROOT, compose, options

GROUPS = ("scenario", "dataset", "augment", "backbone", "method", "modifier", "optim", "schedule", "machine", "log")
EVERY = [(group, name) for group in GROUPS for name in options(group)]
NEEDS = {("optim", name): ["optim.lr=0.1"] for name in options("optim") if name != "none"}
NEEDS["schedule", "milestones"] = ["schedule.at=[1]"]
FROM_THE_RUNNER = {  # arguments that no file names
    "backbone": {"root"}, "dataset": {"root"}, "augment": {"image"}, "scenario": {"images", "views"}, "method": {"backbone"},
    "schedule": {"done", "epochs", "rate"}, "optim": {"params"}, "log": set(), "modifier": set(),
}  # fmt: skip


@pytest.mark.parametrize("scenario", options("scenario"))
def test_every_scenario_has_its_own_name(scenario):
    assert compose(f"scenario={scenario}")["scenario"]["name"] == scenario


def pairs() -> list[tuple[str, str]]:
    """Each method with one scenario of each dataset, since a recipe depends on the dataset and not on its cut into tasks.

    Prepared datasets differ only in their recipes, so those without one are tried on one of them.
    """
    scenarios: dict[str, str] = {}
    for scenario in options("scenario"):
        (dataset,) = re.findall(r"override /dataset: (\w+)", (CONF / "scenario" / f"{scenario}.yaml").read_text())
        scenarios.setdefault(dataset, scenario)
    return [
        (method, scenario)
        for method in options("method") for dataset, scenario in scenarios.items()
        if dataset not in {*PREPARED} - {"vtab"} or (CONF / "recipe" / method / f"{dataset}.yaml").exists()
    ]  # fmt: skip


@pytest.mark.parametrize(("method", "scenario"), pairs())
def test_every_method_composes_with_every_dataset(method, scenario):
    config = compose(f"method={method}", f"scenario={scenario}")
    assert config["method"]["_target_"].split(".")[-2] == method
    assert config["scenario"]["name"] == scenario


@pytest.mark.parametrize(("group", "name"), EVERY)
def test_every_option_composes_and_its_keys_are_those_of_its_signature(group, name):
    node = compose(f"{group}={name}", *NEEDS.get((group, name), []))[group]
    for inner in node.values() if group == "modifier" else [node]:
        if inner.get("_target_"):
            agree(group, inner)


def agree(group: str, node: dict) -> None:
    """Keys without an argument and arguments without a key are both wrong."""
    signature = settings_of(find(node["_target_"], group))
    keys = {key for key in node if key not in ("_target_", "_partial_")}
    usual = usual_values(group, node)
    own = signature.keys() - FROM_THE_RUNNER[group] - usual.keys()
    assert all(signature[key].default == value for key, value in usual.items() if key in signature)
    assert keys <= own, f"no such argument: {keys - own}"
    if group != "optim":  # torch's optimizers have many arguments with good defaults
        assert own <= keys, f"not in the file: {own - keys}"
        for key in own:
            assert signature[key].default is inspect.Parameter.empty, f"{key} has a default in code as well as in the file"


def test_methods_are_listed_by_their_folder():
    modules = {file.stem for file in (ROOT / "cil" / "methods").glob("*.py")} - {"__init__"}
    assert modules == set(options("method"))
    modifiers = {file.stem for file in (ROOT / "cil" / "modifiers").glob("*.py")} - {"__init__"}
    assert modifiers == set(options("modifier")) - {"none"}


@pytest.mark.parametrize("file", sorted(CONF.glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_whoever_names_an_optimizer_names_its_rate(file):
    text = file.read_text()
    node = yaml.safe_load(text) or {}
    chosen = [
        v for entry in node.get("defaults", []) if isinstance(entry, dict) for k, v in entry.items() if k == "override /optim"
    ]
    if chosen and chosen[0] != "none":
        assert "lr" in node.get("optim", {}), f"{file.name} chooses {chosen[0]} but not its learning rate"
    assert text.startswith("#"), f"{file.name} does not say what it is"


def test_a_family_has_a_member_of_each_size():
    for size in options("size"):
        assert sorted(file.stem for file in (CONF / "backbone" / size).glob("*.yaml")) == options("family")


def test_precedence_from_weakest_to_strongest():
    assert compose("method=finetune", "scenario=glyphs_10tasks")["optim"]["lr"] != 0.5
    assert compose("method=finetune", "optim.lr=0.5")["optim"]["lr"] == 0.5
    assert compose("method=finetune", "backbone=resnet_tiny")["backbone"]["_target_"] == "cil.backbones.resnet.resnet"
    assert compose("method=finetune", "size=paper")["backbone"]["architecture"] == "vit_base_patch16_224"


def test_only_the_projects_own_code_is_called():
    with pytest.raises(UserError, match=r"method._target_=os.system is refused: a target starts with cil. or torch.optim."):
        find("os.system", "method")
    with pytest.raises(UserError, match="did you mean Finetune"):
        find("cil.methods.finetune.Finetun", "method")
