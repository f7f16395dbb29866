"""Addresses move only on purpose: whoever changes a pinned digest says so in CHANGELOG.md under Numbers."""

import pytest

from cil.rundir import address, digest
from tests.harness import compose

PINNED = {
    ("method=finetune",): "190aeba363",
    ("method=class_mean", "scenario=glyphs_20tasks"): "8745a8ba26",
    ("method=continual_clip",): "db5b9e6f4d",
}


@pytest.mark.parametrize(("words", "wanted"), PINNED.items())
def test_pinned_digests(words, wanted):
    assert digest(compose(*words)) == wanted


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
