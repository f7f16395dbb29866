"""The three ImageNet100, the damaged fourth, and the names that go with them."""

import re

import pytest

from cil.common.errors import UserError
from cil.data.registry.classes import class_list, class_names, known_lists, known_names
from cil.data.registry.listfile import digest
from cil.data.registry.orders import class_order, known_orders
from tests.harness import ROOT

CMC_BEGINS = [15, 45, 54, 57, 64, 74, 90, 99, 119]


@pytest.mark.parametrize("name", known_lists())
def test_every_list_is_whole(name):
    found = class_list(name)
    size = {"imagenet1k": 1000, "imagenet_a": 200, "imagenet_r": 200}.get(name, 100)
    assert len(found.wnids) == len(set(found.wnids)) == size
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in found.wnids)
    assert {"openai", "lemma"} <= set(found.names)
    assert all(len(names) == size and all(names) for names in found.names.values())
    if name != "imagenet100_seed1993":
        assert list(found.wnids) == sorted(found.wnids)


def test_the_three_imagenet100_are_three():
    everything = class_list("imagenet1k").wnids
    first, seeded, cmc = (class_list(f"imagenet100_{name}").wnids for name in ("first", "seed1993", "cmc"))
    assert first == everything[:100] and (first[0], first[-1]) == ("n01440764", "n01855672")
    assert [everything.index(wnid) for wnid in seeded] == class_order("numpy:1993", 1000)[:100]
    assert [everything.index(wnid) for wnid in cmc][:9] == CMC_BEGINS
    assert len(set(first) & set(cmc)) == 8


def test_attriclip_names():
    found = class_list("imagenet100_cmc")
    first, second, cleaned = found.named("attriclip"), found.named("attriclip2"), found.named("openai")
    assert [label for label in range(100) if first[label] != cleaned[label]] == [45]
    assert (first[45], cleaned[45]) == ("baluster handrail", "baluster / handrail")
    assert [second[label] for label in (69, 99)] == ["shower cap", "mushroom"]
    assert [found.named("lemma")[label] for label in (69, 99)] == ["mortarboard", "stinkhorn"]


def test_the_released_script_shifts_eighteen_names():
    intended, released = class_list("imagenet100_cmc"), class_list("imagenet100_cmc_released")
    assert set(intended.wnids) - set(released.wnids) == {"n03787032", "n13040303"}
    assert set(released.wnids) - set(intended.wnids) == {"n04209133", "n07734744"}
    assert released.named("attriclip2") == intended.named("attriclip2")
    meant = dict(zip(intended.wnids, intended.named("attriclip2"), strict=True))
    meant |= {"n04209133": "shower cap", "n07734744": "mushroom"}
    shown = zip(released.wnids, released.named("attriclip2"), strict=True)
    assert [label for label, (wnid, name) in enumerate(shown) if meant[wnid] != name] == [*range(69, 82), *range(95, 100)]
    assert (released.named("lemma")[69], released.named("attriclip2")[69]) == ("mousetrap", "shower cap")


def test_readme_and_rapf_names():
    found = class_list("imagenet_r")
    assert [name.replace("_", " ") for name in found.named("readme")] == list(found.named("lemma"))
    assert found.named("readme")[1] == "great_white_shark"
    assert class_list("imagenet100_first").named("rapf") == class_list("imagenet100_first").named("openai")


def test_refusals():
    with pytest.raises(UserError, match=r"^class list imagenet100_cmd is not known; did you mean imagenet100_cmc\?$"):
        class_list("imagenet100_cmd")
    with pytest.raises(UserError, match=r"^class names rapf are not known for imagenet_r; choose from lemma, openai, readme$"):
        class_list("imagenet_r").named("rapf")


def test_the_page_says_the_digests_of_the_files():
    page = (ROOT / "cil" / "data" / "registry" / "README.md").read_text()
    told = dict(re.findall(r"^\| `([\w/]+)` \|.*\| `([0-9a-f]{16})` \|$", page, re.MULTILINE))
    files = {f"{entry.dataset}/{entry.name}": entry.digest for entry in known_orders()}
    names = {f"names/{name}": digest(list(class_names(name))) for name in known_names()}
    assert told == files | names | {name: class_list(name).digest for name in known_lists()}
