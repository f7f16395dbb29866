"""Parts of the rows that tables compare with, against the checks of their specification (section 10) and slow forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cil.data.memory import Reservoir
from cil.methods.bic import corrected, fitted
from cil.methods.coda_prompt import crooked, gram_schmidt
from cil.methods.der_mcg import as_long_as_before
from cil.methods.ease import scores, synthesised
from cil.methods.ewc import drift, importance
from cil.methods.ranpac import SHRINKAGES, RandomRidge
from cil.methods.slca import normalised
from cil.modules.heads.aligned import drifted
from cil.modules.rehearsal.distillation import sigmoids, softened
from cil.modules.rehearsal.exemplars import herded, nearest_sums
from tests.reference import close

# --- EWC --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 2])
def test_fisher_of_two_samples(copies):
    """Two classes, no bias, weight 0, one image under both labels: 1/4 an image; the mean gradient of the batch is nothing."""
    network = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(network.weight)
    batch = (torch.ones(2 * copies, 1), torch.tensor([1, 0] * copies))
    close(importance(network, ["weight"], [batch], single=True)["weight"].flatten(), [0.25, 0.25], 1e-7)
    close(importance(network, ["weight"], [batch], single=False)["weight"].flatten(), [0.0, 0.0], 1e-12)


def test_fisher_is_that_of_single_images():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.GELU(), nn.Linear(7, 3)).eval()
    images, labels = torch.randn(37, 5), torch.randint(3, (37,))
    found = importance(network, ["0.weight", "3.bias"], zip(images.split(20), labels.split(20)), single=True)
    slow = {name: torch.zeros_like(network.get_parameter(name)) for name in found}
    for image, label in zip(images, labels):
        network.zero_grad()
        F.cross_entropy(network(image[None]), label[None]).backward()
        for name in slow:
            slow[name] += network.get_parameter(name).grad ** 2 / 37
    assert set(found) == {"0.weight", "3.bias"}
    for name in slow:
        torch.testing.assert_close(found[name], slow[name])


def test_drift_of_a_head_that_has_grown():
    now = {"w": torch.tensor([[1.0], [2.0], [9.0]])}
    anchor, weight = {"w": torch.tensor([[0.0], [4.0]])}, {"w": torch.tensor([[3.0], [1.0]])}
    assert float(drift(now, anchor, weight)) == 0.5 * (3 * 1 + 1 * 4)


# --- LwF, iCaRL, BiC --------------------------------------------------------------------------------------------------


def test_distillation_at_temperature_two():
    logits = torch.zeros(1, 2, requires_grad=True)
    loss = softened(logits, torch.tensor([[2.0, 0.0]]), 2.0)
    loss.backward()
    close(loss, 0.6931, 1e-4)
    close(logits.grad[0], [-0.1155, 0.1155], 1e-4)


def test_sigmoids_towards_a_teacher():
    torch.manual_seed(0)
    logits, teacher, labels = torch.randn(4, 5), torch.randn(4, 3), torch.tensor([0, 3, 4, 2])
    slow = 0.0
    for row in range(4):
        for column in range(5):
            wanted = float(teacher[row, column].sigmoid()) if column < 3 else float(labels[row] == column)
            p = float(logits[row, column].sigmoid())
            slow -= wanted * math.log(p) + (1 - wanted) * math.log(1 - p)
    close(sigmoids(logits, teacher, F.one_hot(labels, 5).float()), slow / 4, 1e-5)


def test_two_numbers_undo_a_bias_towards_new_classes():
    torch.manual_seed(0)
    labels = torch.arange(6).repeat(50)
    fair = 2 * F.one_hot(labels, 6) + torch.randn(300, 6)
    logits = fair.clone()
    logits[:, 4:] = (fair[:, 4:] + 3) / 0.5
    pair = fitted(logits, labels, slice(4, 6))

    def loss(factor: float, shift: float) -> float:
        moved = logits.clone()
        moved[:, 4:] = factor * logits[:, 4:] + shift
        return float(F.cross_entropy(moved, labels))

    best = loss(*pair.tolist())
    assert best <= loss(0.5, -3) and best < loss(1, 0)
    for step in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)):
        assert best <= loss(float(pair[0]) + step[0], float(pair[1]) + step[1]) + 1e-7
    pairs, tasks = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 0, 0, 0, 1, 1])
    assert torch.equal(corrected(logits, pairs, tasks), logits)
    pairs[1] = pair
    assert (corrected(logits, pairs, tasks).argmax(1) == labels).float().mean() > (logits.argmax(1) == labels).float().mean()


def test_herding_of_four_directions():
    """0°, 10°, 30° and 80°: both forms take 30°, 10°, 80°, 0°."""
    angles = torch.tensor([0.0, 10.0, 30.0, 80.0]).deg2rad()
    directions = torch.stack([angles.cos(), angles.sin()], 1)
    assert nearest_sums(3 * directions, 4).tolist() == herded(directions, 4).tolist() == [2, 1, 3, 0]
    assert nearest_sums(directions, 2).tolist() == [2, 1] and nearest_sums(directions, 0).tolist() == []


# --- DER++, RanPAC ----------------------------------------------------------------------------------------------------


def test_a_reservoir_holds_each_with_the_same_chance():
    """Twenty images through five places, two thousand times, in batches of three: χ² of how often each is there."""
    random, counts = torch.Generator().manual_seed(0), torch.zeros(20)
    for _ in range(2000):
        memory = Reservoir(5)
        for rows in torch.arange(20).split(3):
            memory.show(rows, rows, torch.zeros(len(rows), 2), random)
        assert len(memory) == 5 == len(memory.rows.unique())
        counts[memory.rows] += 1
    chi = float(((counts - 500) ** 2 / 500).sum()) / (1 - 5 / 20)
    assert chi < 43.8  # 19 degrees of freedom, p = 0.001


def test_a_reservoir_is_vitters_item_by_item():
    random, again = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    memory, slow = Reservoir(4), {}
    for rows in torch.arange(100, 130).split(7):
        memory.show(rows, rows % 10, torch.arange(len(rows))[:, None].expand(-1, 3).float(), random)
        for row, u in zip(rows.tolist(), torch.rand(len(rows), generator=again, dtype=torch.double).tolist()):
            turn = row - 100
            place = turn if turn < 4 else int(u * (turn + 1))
            if place < 4:
                slow[place] = row
    assert memory.rows.tolist() == [slow[place] for place in range(4)]
    assert torch.equal(memory.labels, memory.rows % 10) and memory.known.tolist() == [3] * 4


def test_logits_of_fewer_classes_keep_their_number():
    memory, other = Reservoir(6), Reservoir(6)
    memory.show(torch.tensor([1, 2]), torch.tensor([0, 1]), torch.ones(2, 2))
    memory.show(torch.tensor([3]), torch.tensor([2]), torch.full((1, 4), 2.0))
    assert memory.known.tolist() == [2, 2, 4] and memory.logits.shape == (3, 4) and not memory.logits[:2, 2:].any()
    other.load_state_dict(memory.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(memory.buffers(), other.buffers())) and int(other.shown) == 3
    assert sorted(other.draw(9, range(3)).tolist()) == [0, 1, 2] and sorted(other.draw(9, range(1, 3)).tolist()) == [1, 2]


def test_ridge_seen_in_parts_is_ridge_seen_at_once():
    torch.manual_seed(0)
    given, labels = torch.randn(90, 6), torch.arange(90) % 9
    once, parts = RandomRidge(6, 40), RandomRidge(6, 40)
    parts.load_state_dict(once.state_dict())
    once.grow(9)
    once.see(given, labels)
    for task in range(3):
        parts.grow(3 * task + 3)
        own = labels // 3 == task
        parts.see(given[own], labels[own])
    for made in (once, parts):
        made.solve(10.0)
    torch.testing.assert_close(once(given), parts(given), atol=1e-4, rtol=0)
    lifted = (given.double() @ once.directions.double()).relu()
    slow = torch.linalg.solve(lifted.T @ lifted + 10 * torch.eye(40), lifted.T @ F.one_hot(labels, 9).double())
    torch.testing.assert_close(once.weight.double(), slow, atol=1e-4, rtol=1e-3)


def test_the_shrinkage_is_that_of_the_least_error():
    torch.manual_seed(0)
    given, labels = torch.randn(60, 5), torch.arange(60) % 4
    ridge = RandomRidge(5, 30)
    ridge.grow(4)
    best = ridge.best(given, labels, alone=True)
    lifted, wanted = ridge.lift(given).double(), F.one_hot(labels, 4).double()
    errors = []
    for shrinkage in SHRINKAGES:
        weight = torch.linalg.solve(lifted[:48].T @ lifted[:48] + shrinkage * torch.eye(30), lifted[:48].T @ wanted[:48])
        errors.append(float((lifted[48:] @ weight - wanted[48:]).square().mean()))
    assert best == SHRINKAGES[errors.index(min(errors))]


# --- weight alignment, SLCA, EASE, CODA-Prompt ------------------------------------------------------------------------


def test_new_rows_are_as_long_as_old_ones():
    torch.manual_seed(0)
    weight = torch.randn(7, 5) * torch.tensor([1.0] * 4 + [3.0] * 3)[:, None]
    found = as_long_as_before(weight, 4)
    assert torch.equal(found[:4], weight[:4])
    close(found[4:].norm(dim=1).mean(), weight[:4].norm(dim=1).mean(), 1e-5)
    torch.testing.assert_close(F.normalize(found[4:], dim=1), F.normalize(weight[4:], dim=1))
    assert torch.equal(as_long_as_before(weight, 0), weight)


def test_logits_are_divided_by_the_mean_length_over_tasks():
    logits, tasks = torch.tensor([[3.0, 4.0, 0.0, 1.0]]), (range(2), range(2, 4))
    close(normalised(logits, tasks)[0], [3 / 3 / 0.1, 4 / 3 / 0.1, 0.0, 1 / 3 / 0.1], 1e-4)
    close(drifted(torch.ones(2), 1, 4), [0.925, 0.925], 1e-6)
    close(drifted(torch.ones(1), 4, 4), [1.0], 1e-6)


def test_an_old_class_in_a_newer_subspace():
    torch.manual_seed(0)
    own, others_own, others = torch.randn(3), torch.randn(4, 3), torch.randn(4, 6)
    weights = [math.exp(float(own @ o / own.norm() / o.norm())) for o in others_own]
    slow = sum(w * o for w, o in zip(weights, others)) / sum(weights)
    torch.testing.assert_close(synthesised(own, others_own, others), slow)


@pytest.mark.parametrize("tasks", [1, 3])
def test_scores_over_subspaces(tasks):
    torch.manual_seed(0)
    features, prototypes = [torch.randn(2, 4) for _ in range(tasks)], [torch.randn(3, 4) for _ in range(tasks)]
    task_of = torch.tensor([0, tasks - 1, tasks // 2])
    found = scores(features, prototypes, task_of, 0.1)
    for image in range(2):
        for label in range(3):
            each = [float(F.cosine_similarity(f[image], p[label], dim=0)) for f, p in zip(features, prototypes)]
            own = each.pop(int(task_of[label]))
            close(found[image, label], own + (0.1 * sum(each) / (tasks - 1) if each else 0.0), 1e-5)


def test_new_parameters_are_at_right_angles():
    torch.manual_seed(0)
    old = gram_schmidt(torch.randn(3, 2, 6), torch.empty(0, 2, 6))
    new = gram_schmidt(torch.randn(4, 2, 6), 2.5 * old)
    both = torch.cat([old, new]).flatten(1)
    torch.testing.assert_close(both @ both.T, torch.eye(7), atol=1e-5, rtol=0)
    assert float(crooked(both)) < 1e-10 and float(crooked(2 * both)) == pytest.approx(9 / 7, rel=1e-4)
    assert gram_schmidt(torch.empty(0, 2, 6), old).shape == (0, 2, 6)
