import pytest
import torch

from cil.common.errors import UserError
from cil.data.registry.orders import class_order
from cil.data.scenario import Scenario, split


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
