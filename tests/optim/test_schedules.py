"""Learning rates, optimizer groups and the order of images against the specification's values (sections 5.2, 6 and 7)."""

from functools import partial

import pytest
import torch
from torch import nn

from cil.data.sampling import repeated, shuffled, stored
from cil.optim.optimizers import adamw_matrices
from cil.optim.schedules import warm_cosine

DYTOX = partial(warm_cosine, warm=5, first=1e-6, last=1e-5)


@pytest.mark.parametrize(("rate", "epochs", "over", "known"), [
    (2.5e-4, 500, None, {0: 1e-6, 1: 1e-6, 2: 5.08e-5, 5: 2.002e-4, 6: 2.49941e-4, 100: 2.27523e-4, 250: 1.30754e-4,
                         499: 1.00095e-5}),
    (2.5e-4, 500, 600, {6: 2.49959e-4, 100: 2.34236e-4, 499: 2.6711e-5}),
    (4e-4, 600, 600, {2: 8.08e-5, 5: 3.202e-4, 6: 3.99933e-4, 250: 2.56455e-4, 599: 1.00107e-5}),
])  # fmt: skip
def test_warm_cosine(rate, epochs, over, known):
    for epoch, value in known.items():
        for inside in (0.0, 0.7):  # one rate an epoch
            assert rate * DYTOX(epoch + inside, epochs, rate, over=over) == pytest.approx(value, rel=2e-5)


@pytest.mark.parametrize(("images", "steps"), [
    (5000, 19), (7000, 27), (2500, 9), (4500, 17), (1000, 3), (2000, 7), (3000, 11), (25_000, 97),
])  # fmt: skip
def test_repeated_augmentation(images, steps):
    order = repeated(images, 256, torch.Generator().manual_seed(0), times=3)
    assert len(order) == 256 * steps
    assert (order[: len(order) // 3 * 3].view(-1, 3) == order[::3][: len(order) // 3, None]).all()  # three in a row
    assert len(order.unique()) == -(-len(order) // 3)
    assert torch.equal(order, repeated(images, 256, torch.Generator().manual_seed(0), times=3))


def test_fewer_images_than_a_batch_make_one_short_batch():
    assert len(repeated(20, 256, torch.Generator(), times=3)) == 20
    assert stored(20, 256, torch.Generator()).tolist() == list(range(20)) * 2


def test_stored_images_come_as_they_lie_each_twice():
    order = stored(2000, 256, torch.Generator())
    assert len(order) == 15 * 256
    assert order[:256].tolist() == list(range(128)) * 2 and order[-1] == 15 * 128 - 1  # the last 80 are left out
    assert stored(6, 5, torch.Generator()).tolist() == [0, 1, 2, 0, 1, 3, 4, 5, 3, 4]  # an odd batch
    assert stored(1, 1, torch.Generator()).tolist() == [0]
    assert stored(1000, 256, torch.Generator()).max() == 7 * 128 - 1
    assert sorted(shuffled(9, 4, torch.Generator()).tolist()) == list(range(9))


def test_only_matrices_are_decayed():
    network = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3))
    token = nn.Parameter(torch.ones(1, 1, 4))
    groups = [{"params": network.parameters(), "lr": 0.5}, token]
    optimizer = adamw_matrices(groups, lr=0.1, betas=(0.9, 0.999), weight_decay=0.2, fused=True)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    norm, linear = network
    assert found == {
        id(norm.weight): (0.5, 0.0), id(norm.bias): (0.5, 0.0), id(linear.bias): (0.5, 0.0), id(linear.weight): (0.5, 0.2),
        id(token): (0.1, 0.2),
    }  # fmt: skip
