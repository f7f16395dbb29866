"""Vectors of the published orders, the names they go by, and what is refused."""

import shutil

import pytest

from cil.common.errors import UserError
from cil.data.registry import orders
from cil.data.registry.listfile import digest
from cil.data.registry.orders import class_order, known_orders

PODNET = [87, 0, 52, 58, 44, 91, 68, 97, 51, 15]
PYCIL = [68, 56, 78, 8, 23, 84, 90, 65, 74, 76, 40, 89]


@pytest.mark.parametrize(
    ("order", "dataset", "count", "begins"),
    [
        ("python:1", None, 100, [53, 37, 65, 51, 4, 20, 38, 9, 10, 81]),
        ("python:2", None, 100, [0, 76, 61, 63, 1, 71, 2, 6, 16, 19]),
        ("python:42", None, 100, [42, 41, 91, 9, 65, 50, 1, 70, 15, 78]),
        ("podnet", "cifar100", 100, PODNET),
        ("PODNet", "CIFAR100", 100, PODNET),
        ("cifar100/podnet", None, 100, PODNET),
        ("continual_clip", "cifar100", 100, PODNET),
        ("rapf", "cifar100", 100, PODNET),
        ("dytox2", None, 100, [58, 30, 93]),
        ("der3", None, 100, [71, 54, 45]),
        ("pycil", None, 100, PYCIL),
        ("FACIL", "cifar100", 100, PYCIL),
        ("podnet", "imagenet100", 100, PYCIL),
        ("iCaRL", "imagenet100_first", 100, PYCIL),
        ("imagenet100_first/podnet", None, 100, PYCIL),
        ("rapf", "imagenet_r", 200, [29, 75, 18, 9]),
        ("rapf", "cub200", 200, [110, 54, 8, 122]),
    ],
)
def test_orders_begin_as_published(order, dataset, count, begins):
    labels = class_order(order, count, dataset)
    assert labels[: len(begins)] == begins
    assert sorted(labels) == list(range(count))


def test_what_is_the_same_as_a_rule():
    assert class_order("pycil", 100) == class_order("numpy:1993", 100) == class_order("imagenet100/podnet", 100)


@pytest.mark.parametrize(
    ("order", "dataset", "count", "line"),
    [
        (
            "ICARL",
            "cifar100",
            100,
            "ICARL is the nickname of two orders; type scenario.order=podnet (87, 0, 52, … of PODNet's author, DyTox, "
            "Continual-CLIP) or scenario.order=pycil (68, 56, 78, … numpy's seed 1993: PyCIL, FACIL)",
        ),
        ("iCaRL", None, 100, "iCaRL is the nickname of three orders; type scenario.order=cifar100/podnet (87, 0, 52, … of"),
        ("podnet", None, 100, "podnet is the name of two orders; type scenario.order=cifar100/podnet (87, 0, 52, … of"),
        ("rapf", None, 200, "rapf is the name of two orders; type scenario.order=cub200/rapf (110, 54, 8, … of RAPF) or"),
        ("iCaRL", "glyphs", 100, "scenario.order=iCaRL is an order of cifar100 and imagenet100_first, this dataset is glyphs"),
        ("cifar100/pycil", "imagenet100", 100, "scenario.order=cifar100/pycil is an order of cifar100, this dataset is"),
        ("podnet", "cifar100", 6, "scenario.order=podnet orders 100 classes, this dataset has 6; type natural, numpy:1993"),
        ("imagenet100/podnet", "imagenet100_cmc", 100, "scenario.order=imagenet100/podnet is an order of imagenet100_first"),
        ("dytox4", "cifar100", 100, "scenario.order=dytox4 is not known; type natural, numpy:1993 or python:1 (any seed), "
                                    "seed, a list of labels or names, or a .txt file of them or a registered name (did you"),
        ("numpy:x", "glyphs", 100, "scenario.order=numpy:x is not known; type natural, numpy:1993 or python:1 (any seed), s"),
        ("python:", None, 100, "scenario.order=python: is not known; type natural"),
    ],
)  # fmt: skip
def test_refusals(order, dataset, count, line):
    with pytest.raises(UserError) as refused:
        class_order(order, count, dataset)
    assert str(refused.value).startswith(line) and "\n" not in str(refused.value)


def test_every_entry_is_a_permutation_with_one_meaning_per_name():
    entries = known_orders()
    assert [f"{entry.dataset}/{entry.name}" for entry in entries] == [
        "cifar100/dytox2", "cifar100/dytox3", "cifar100/podnet", "cifar100/pycil", "cub200/rapf", "imagenet100/podnet",
        "imagenet_r/rapf",
    ]  # fmt: skip
    for entry in entries:
        assert sorted(entry.labels) == list(range(len(entry.labels)))
        assert entry.digest == digest(class_order(f"{entry.dataset}/{entry.name}", len(entry.labels)))
        others = [other for other in entries if other is not entry and other.dataset == entry.dataset]
        assert not any(other.answers_to(entry.name) for other in others)


def test_an_edited_file_is_refused(tmp_path, monkeypatch):
    shutil.copytree(orders.FOLDER, tmp_path / "orders")
    monkeypatch.setattr(orders, "FOLDER", tmp_path / "orders")
    file = tmp_path / "orders" / "cifar100" / "podnet.txt"
    file.write_text(file.read_text().replace("87  0 52", " 0 87 52"))
    with pytest.raises(UserError, match=r"podnet.txt was edited: its head says digest 6d53568230308dde, its rows have"):
        class_order("podnet", 100, "cifar100")
