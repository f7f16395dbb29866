import re

import pytest
import torch

from cil.common.errors import UserError
from cil.data.registry.orders import class_order
from cil.data.registry.sizes import split
from cil.data.scenario import Scenario


@pytest.mark.parametrize(
    ("order", "count", "begins"),
    [
        ("numpy:1993", 100, [68, 56, 78, 8, 23, 84, 90, 65, 74, 76, 40, 89]),
        ("numpy:1993", 200, [168, 136, 51, 9, 183, 101, 171, 99, 42, 159, 191, 70]),
        ("numpy:1993", 1000, [54, 7, 894, 512, 126, 337, 988, 11, 284, 493, 133, 783]),
        ("natural", 100, [0, 1, 2]),
        ([2, 0, 1], 3, [2, 0, 1]),
    ],
)
def test_orders_of_the_spec(order, count, begins):
    assert class_order(order, count)[: len(begins)] == begins
    assert sorted(class_order(order, count)) == list(range(count))


@pytest.mark.parametrize("order", ["iCaRL", "numpy:", "numpy:x", "natural:3", [0, 0, 1], [0, 1]])
def test_an_unknown_order_is_refused(order):
    with pytest.raises(UserError, match=r"scenario.order"):
        class_order(order, 3)


def test_splits():
    assert split(100, 10, None, "s") == [10] * 10
    assert split(100, 6, 50, "s") == [50] + [10] * 5
    assert split(7, 1, None, "s") == [7]
    with pytest.raises(UserError, match=r"100 classes do not split into 7 equal tasks; .* 1, 2, 4, 5, 10, 20, 25, 50, 100"):
        split(100, 7, None, "s")
    for tasks, first in ((0, None), (101, None), (5, 99), (3, 0), (1, 50)):
        with pytest.raises(UserError):
            split(100, tasks, first, "s")


def test_labels_are_ranges_in_arrival_order(scenario, images):
    assert [task.classes for task in scenario] == [range(2), range(2, 4), range(4, 6)]
    assert scenario[1].old == range(2) and scenario[1].seen == range(4)
    assert [task.last for task in scenario] == [False, False, True]
    for task in scenario:
        for part, labels in ((task.train, images.train_labels), (task.test, images.test_labels)):
            assert set(part.labels.tolist()) == set(task.classes)
            for row, label in zip(part.rows.tolist(), part.labels.tolist(), strict=True):
                assert scenario.order[label] == labels[row]  # the image really is of that class
                assert task.names[label - task.classes.start] == images.class_names[labels[row]]


def test_tasks_part_the_data(scenario, images):
    rows = torch.cat([task.train.rows for task in scenario])
    assert sorted(rows.tolist()) == list(range(len(images.train)))
    assert all(torch.equal(task.train.rows, task.train_plain.rows) for task in scenario)


def test_slices_and_negative_indices(scenario):
    assert [task.index for task in scenario[:2]] == [0, 1]
    assert scenario[-1].index == 2
    with pytest.raises(IndexError):
        scenario[3]


def test_digests_tell_orders_and_splits_apart(scenario, images):
    def digests(tasks, order):
        other = Scenario(images, scenario.views, name="x", tasks=tasks, first=None, order=order)
        return other.order_digest(), other.split_digest()

    assert digests(3, "numpy:1993") == (scenario.order_digest(), scenario.split_digest())
    assert digests(2, "numpy:1993")[0] == scenario.order_digest() and digests(2, "numpy:1993")[1] != scenario.split_digest()
    assert digests(3, "natural")[0] != scenario.order_digest()


# --- sizes, orders by name and by seed, validation --------------------------------------------------------------------


def made(images, scenario, **changes) -> Scenario:
    return Scenario(images, scenario.views, **{"name": "x", "tasks": 3, "first": None, "order": "natural", **changes})


def test_sizes_of_every_task(images, scenario):
    assert [list(task.classes) for task in made(images, scenario, sizes=[3, 1, 2])] == [[0, 1, 2], [3], [4, 5]]
    with pytest.raises(UserError, match=r"scenario.sizes=\[3, 1\] is 4 classes, but there are 6; change the last size"):
        made(images, scenario, sizes=[3, 1])


@pytest.mark.parametrize(("word", "sizes"), [("b0_inc2", [2, 2, 2]), ("B4_Inc1", [4, 1, 1]), ("b3_inc3", [3, 3])])
def test_sizes_as_papers_write_them(images, scenario, word, sizes):
    assert made(images, scenario, sizes=word).sizes == sizes


@pytest.mark.parametrize(
    ("word", "line"),
    [
        (
            "b0_inc4",
            "leaves 6 of 6 classes for tasks of 4, which does not divide; type scenario.sizes=b0_inc1 or b0_inc2",
        ),
        ("b6_inc1", "leaves 0 of 6 classes for tasks of 1, which does not divide; type scenario.sizes=b0_inc6"),
        ("b0_inc0", "is not known; type b0_inc10, b50_inc5 or a list"),
        ("inc2", "x: scenario.sizes=inc2 is not known; type b0_inc10"),
    ],
)
def test_sizes_that_are_not_possible(images, scenario, word, line):
    with pytest.raises(UserError, match=re.escape(line)):
        made(images, scenario, sizes=word)


def test_orders_by_name_and_from_a_file(images, scenario, tmp_path):
    names = [images.class_names[label] for label in (5, 3, 1, 0, 2, 4)]
    assert made(images, scenario, order=names).order == [5, 3, 1, 0, 2, 4]
    (tmp_path / "order.txt").write_text("\n".join(names) + "\n")
    assert made(images, scenario, order=str(tmp_path / "order.txt")).order == [5, 3, 1, 0, 2, 4]
    with pytest.raises(UserError, match=r"nobody is neither a label nor a class name; type natural"):
        made(images, scenario, order=["nobody", *names[1:]])
    with pytest.raises(UserError, match=r"scenario.order=none.txt: there is no such file"):
        made(images, scenario, order="none.txt")


def test_validation_takes_the_place_of_tests(images, scenario):
    cut, plain = made(images, scenario, validation=0.25), made(images, scenario)
    for task, before in zip(cut, plain, strict=True):
        assert task.test.pixels is images.train and len(task.test) == 2 * round(0.25 * 18)
        assert not set(task.test.rows.tolist()) & set(task.train.rows.tolist())
        assert set(task.test.rows.tolist()) | set(task.train.rows.tolist()) == set(before.train.rows.tolist())
        assert torch.equal(task.train.rows, task.train_plain.rows)
        assert set(task.test.labels.tolist()) == set(task.classes)
    again = made(images, scenario, validation=0.25)
    assert all(torch.equal(one.test.rows, two.test.rows) for one, two in zip(cut, again, strict=True))
    assert cut.split_digest() != plain.split_digest() and "no test image is used" in cut.notes[-1] and not plain.notes
    with pytest.raises(UserError, match=r"scenario.validation=0.01 of the 18 images of class .* type another share"):
        made(images, scenario, validation=0.01)


def test_the_seed_can_decide_the_order(compose):
    from cil.launch.run import verified
    from cil.report.collect import collect, rows, table
    from tests import harness

    words = ("method=class_mean", "scenario.order=seed", "scenario.tasks=5", "backbone=vit_tiny")
    configs = [compose(*words, f"seed={seed}") for seed in (1, 2)]
    runs = [harness.execute(config) for config in configs]
    orders = [run.summary()["identity"]["order_digest"] for run in runs]
    assert orders[0] != orders[1] and runs[0].path.parent == runs[1].path.parent
    assert runs[0].summary()["class_il"]["acc"] != runs[1].summary()["class_il"]["acc"]
    assert verified(runs[0], configs[0])["seed"] == 1
    (group,) = rows(collect(runs[0].path.parents[3])[0])
    assert "2 orders" in table([group]) and "±" in table([group])
    checked = harness.execute(compose("method=class_mean", "scenario.validation=0.34", "scenario.tasks=5", "backbone=vit_tiny"))
    assert "class_mean, validation" in table(rows(collect(checked.path.parents[3])[0]))


def test_an_incomplete_list_of_classes_says_which_are_left_out():
    with pytest.raises(UserError, match=r"it has 2 entries, 2 different; add finch"):
        class_order(["gull", "crow"], 3, "folder_birds", ("crow", "finch", "gull"))
