"""Addresses move only on purpose: whoever changes a pinned digest says so in CHANGELOG.md under Numbers."""

import shutil
from collections.abc import Iterator

import pytest
import yaml
from omegaconf import OmegaConf

from cil.commands.move_runs import moved
from cil.common.files import write_text
from cil.runs.run_folder import RunDir, address, digest
from tests.harness import CONF, ROOT, compose, execute

PINNED = {
    ("method=finetune",): "76c8f20579",
    ("method=class_mean", "scenario=glyphs_20tasks"): "5bd4e5c893",
    ("method=continual_clip",): "3162e20294",
    ("method=l2p", "modifier=pgp", "optim.lr=0.002"): "ebaa2ab005",  # from before the modifier knew adapters
    ("method=dualprompt", "modifier=pgp", "reading=released", "scenario=imagenet_r_10tasks"): "07f86cb0b7",
}


@pytest.mark.parametrize(("words", "wanted"), PINNED.items())
def test_pinned_digests(words, wanted):
    assert digest(compose(*words)) == wanted


def test_a_later_setting_of_a_modifier_is_part_of_the_address_where_it_is_not_the_usual():
    usual, other = (compose("method=pet", "modifier=pgp", f"modifier.pgp.lora={energy}") for energy in (0.99, 0.9))
    assert usual == compose("method=pet", "modifier=pgp") and "lora" not in usual["modifier"]["pgp"]
    assert other["modifier"]["pgp"]["lora"] == 0.9 and digest(other) != digest(usual)


def test_an_address_does_not_depend_on_where_code_lies():
    config = compose("method=finetune", "modifier=none")
    moved = {**config, "dataset": {**config["dataset"], "_target_": "cil.elsewhere.glyphs.glyphs"}}
    assert config["dataset"]["_target_"] == "cil.data.datasets.glyphs.glyphs"
    assert digest(moved) == digest(config)
    other = {**config, "dataset": {**config["dataset"], "_target_": "cil.data.datasets.glyphs.alphabet"}}
    assert digest(other) != digest(config)


def targets(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "_target_" and value)
        for value in node.values():
            yield from targets(value)


@pytest.mark.parametrize("group", ["dataset", "backbone", "method", "modifier", "augment", "scenario", "optim", "schedule"])
def test_what_an_option_makes_has_a_name_of_its_own(group):
    """Two options whose objects were called alike would share addresses."""
    files = sorted((CONF / group).rglob("*.yaml"))
    found = {target for file in files for target in targets(OmegaConf.to_container(OmegaConf.load(file)))}
    assert len({target.rpartition(".")[2] for target in found}) == len(found), found


def test_an_overlay_has_the_address_of_its_spelled_out_twin():
    by_choice = compose("method=finetune", "scenario=glyphs_20tasks")
    spelled = compose("method=finetune", "scenario.tasks=20", "scenario.name=glyphs_20tasks")
    assert address(by_choice) == address(spelled)
    assert digest(compose("method=finetune", "backbone=vit_tiny")) == digest(compose("method=finetune"))


def test_what_moves_no_number_is_not_in_the_address():
    base = compose("method=finetune")
    for words in (("seed=3",), ("outputs=elsewhere",), ("machine=cpu",), ("log.live=false",), ("data.root=disk",)):
        assert digest(compose("method=finetune", *words)) == digest(base), words


def test_what_moves_a_number_is():
    base = digest(compose("method=finetune"))
    for words in (("optim.lr=0.5",), ("machine.precision=bf16",), ("scenario.order=natural",), ("method.columns=new",)):
        assert digest(compose("method=finetune", *words)) != base, words


def test_the_order_of_modifiers_counts_and_that_of_other_keys_does_not():
    config = compose("method=finetune")
    one, two = {**config, "modifier": {"a": {}, "b": {}}}, {**config, "modifier": {"b": {}, "a": {}}}
    assert digest(one) != digest(two)
    assert digest(dict(reversed(config.items()))) == digest(config)
    assert address(one).split("/")[1] == "finetune+a+b"


@pytest.mark.parametrize("killed", [None, "write_text", "finish"])
def test_a_finished_run_names_code_where_it_lies_now(compose, outputs, monkeypatch, killed):
    """What it names can be built again (the report and the pictures do), also after a kill in the middle."""
    from cil.commands import move_runs

    config = compose("method=class_mean")
    old = {
        **config,
        "dataset": {**config["dataset"], "_target_": "cil.datasets.glyphs.glyphs"},
        "scenario": {**config["scenario"], "_target_": "cil.scenario.Scenario"},
    }
    run = execute(config)
    before = run.summary()
    write_text(run.path / "config.yaml", yaml.safe_dump(old, sort_keys=False))
    run.seal()
    if killed:

        def dies(*of: object) -> None:
            write_text(*of) if killed == "write_text" else None
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(*((move_runs, killed) if killed == "write_text" else (RunDir, killed)), dies)
            with pytest.raises(KeyboardInterrupt):
                list(moved(outputs, dry=False))
    assert [line.partition(": ")[2] for line in moved(outputs, dry=False)] == ["config.yaml names the code where it lies now"]
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == config
    assert run.summary() == before and list(moved(outputs, dry=False)) == []


def test_every_name_of_moved_code_is_found():
    from cil.commands.move_runs import MOVED, target
    from cil.engine.build import find

    named = {value for file in (ROOT / "conf").rglob("*.yaml") for value in targets(yaml.safe_load(file.read_text()))}
    for old, new in MOVED.items():
        mine = [value for value in named if value.startswith(new)]
        assert mine, new
        for value in mine:
            assert target(old + value.removeprefix(new)) == value and find(value, "place")


def test_runs_at_old_addresses_are_found_again(compose, outputs):
    """Its summary follows; a folder that is not a run's, and one whose new place is taken, stay."""
    config = compose("method=class_mean")
    run = execute(config)
    accuracy = run.summary()["class_il"]["acc"]
    old = outputs / "glyphs_10tasks/class_mean/0123456789/seed0"
    old.parent.mkdir(parents=True)
    run.path.rename(old)
    RunDir(old).finish(RunDir(old).summary() | {"digest": "0123456789", "address": str(old.relative_to(outputs))})
    write_text(outputs / "a/b/c/seed0/config.yaml", "nothing: true")
    assert len(list(moved(outputs, dry=True))) == 2 and old.exists()
    told = list(moved(outputs, dry=False))
    assert told[0].startswith("a/b/c/seed0: left") and told[1].endswith(f"→ {address(config)}")
    assert run.is_done and not old.parent.exists()
    assert (run.summary()["address"], run.summary()["class_il"]["acc"]) == (address(config), accuracy)
    assert [line for line in moved(outputs, dry=False) if "→" in line] == []
    shutil.copytree(run.path, old)
    assert any(f"{address(config)} is there already" in line for line in moved(outputs, dry=False))
