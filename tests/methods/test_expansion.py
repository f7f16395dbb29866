"""DER and its gate: what is copied, what is fixed, which centroid a class has, and what the gate does to an answer."""

import copy
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from cil.contract import in_pieces
from cil.method import Phase
from cil.methods.der_mcg import attraction, matched, weights
from tests import harness
from tests.methods.test_contract import fitted, small  # noqa: F401
from tests.methods.whole_networks import cross_entropy, learned, method_of, move, scenario, step  # noqa: F401

SMALL = ("memory=12", "gate_width=8", "centroids=3")


def test_the_newest_extractor_and_the_heads_block_are_copies(scenario):  # noqa: F811
    method = method_of("der_mcg", *SMALL)
    learned(method, scenario, 1)
    before = copy.deepcopy(method)
    method.begin_task(scenario[1])
    images, width = scenario[0].test.batch(torch.arange(5)).images, method.backbone.width
    old, new = method.parts(images)
    assert torch.equal(old, before.features(images)) and torch.equal(new, old)
    assert method.head.weight.shape == (4, 2 * width) and not torch.equal(method.head.weight[:2, width:], before.head.weight)
    assert torch.equal(method.head.weight[:2, :width], before.head.weight)
    assert torch.equal(method.head.bias[:2], before.head.bias) and method.auxiliary_head.weight.shape == (3, width)
    method.train()
    move(method.backbone)
    assert torch.equal(method.parts(images)[0], old), "an old extractor moves with the newest, or counts statistics"
    (train, gate) = method.phases(scenario[1])
    listed = {id(p) for p in train.parameters}
    assert not listed & {id(p) for p in [*method.older.parameters(), *method.gate.parameters()]}
    assert {id(p) for p in gate.parameters} == {id(p) for p in method.gate.parameters()}


def test_the_auxiliary_head_sees_old_classes_as_one(scenario):  # noqa: F811
    method = method_of("der_mcg", *SMALL, "auxiliary=0.5")
    task = learned(method, scenario, 2)
    batch = method.memory.joined(task).batch(torch.arange(0, 44, 4))
    losses = method.training_step(batch, Phase("train", task, task.train, []))
    assert {int(label) for label in batch.labels} & {0, 1}
    told = torch.tensor([0 if label < 2 else int(label) - 1 for label in batch.labels])
    logits = method.auxiliary_head(method.backbone(batch.images))
    torch.testing.assert_close(losses["auxiliary"], 0.5 * cross_entropy(logits, told))
    torch.testing.assert_close(losses["ce"], cross_entropy(method.head(method.features(batch.images)), batch.labels))


def test_new_rows_become_as_long_as_old_ones(scenario):  # noqa: F811
    method = method_of("der_mcg", *SMALL)
    task = learned(method, scenario, 2)
    rows = method.head.weight.detach().clone()
    method.end_phase(Phase("train", task, task.train, []))
    lengths = method.head.weight.detach().norm(dim=1)
    torch.testing.assert_close(lengths[2:].mean(), lengths[:2].mean())
    assert torch.equal(method.head.weight[:2], rows[:2])


def test_classes_get_the_centroids_that_suit_all_of_them():
    torch.manual_seed(0)
    prototypes, centroids = F.normalize(torch.randn(4, 5), dim=1), F.normalize(torch.randn(4, 5), dim=1)
    cosines = prototypes @ centroids.T
    best = max(permutations(range(4)), key=lambda order: sum(float(cosines[n, place]) for n, place in enumerate(order)))
    assert matched(prototypes, centroids).tolist() == list(best)
    crowd = matched(F.normalize(torch.randn(7, 5), dim=1), centroids)
    assert sorted(crowd.bincount(minlength=4).tolist()) == [1, 2, 2, 2]


def test_attraction_and_weights():
    torch.manual_seed(0)
    embedded, centroids = F.normalize(torch.randn(3, 5), dim=1), F.normalize(torch.randn(6, 5), dim=1)
    own = torch.tensor([5, 0, 2])
    torch.testing.assert_close(attraction(embedded, centroids, own, 0.1), cross_entropy(embedded @ centroids.T / 0.1, own))
    slow = torch.stack([torch.stack([max(row @ c for c in part) for part in centroids.split(2)]) for row in embedded])
    torch.testing.assert_close(weights(embedded, centroids, 2, 0.1), F.softmax(slow / 0.1, 1))


@pytest.mark.parametrize("gate", ["none", "features", "logits"])
def test_what_the_gate_does_to_an_answer(scenario, gate):  # noqa: F811
    method = method_of("der_mcg", *SMALL, f"gate={gate}")
    learned(method, scenario, 2)
    move(method)
    images = scenario[0].test.batch(torch.arange(4)).images
    parts, found = method.parts(images), method.predict(images)
    if gate == "none":
        assert method.gate is None and [phase.name for phase in method.phases(scenario[1])] == ["train"]
        torch.testing.assert_close(found, method.head(torch.cat(parts, 1)))
    for row, share in enumerate(method.gate(images) if method.gate else ()):
        if gate == "features":
            slow = method.head(torch.cat([part[row] * (1 + share[n]) for n, part in enumerate(parts)]))
        else:
            slow = method.head(torch.cat([part[row] for part in parts])) * share[[0, 0, 1, 1]]
        torch.testing.assert_close(found[row], slow)


def test_matching_holds_for_an_epoch(scenario):  # noqa: F811
    """A run that goes on in the middle of an epoch has other weights than at its start, and must not match anew."""
    method = method_of("der_mcg", *SMALL)
    task = learned(method, scenario, 2)
    phase = Phase("gate", task, method.memory.joined(task), [])
    method.begin_epoch(phase, 0)
    first = method.gate.centroid_of.clone()
    assert first[:2].max() < 3 <= first[2:].min() and len(first.unique()) == 4
    with torch.no_grad():
        method.gate.centroids.copy_(-method.gate.centroids)
    method.begin_epoch(phase, 0)
    assert torch.equal(method.gate.centroid_of, first)
    method.begin_epoch(phase, 1)
    assert not torch.equal(method.gate.centroid_of, first)
    assert list(step(method, task)[1]) == ["ce", "auxiliary"]


def test_a_body_that_does_not_learn_counts_no_statistics():
    method = method_of("der_mcg", *SMALL, "gate_learns=head").train()
    assert method.gate.head.training and not any(module.training for module in method.gate.body.modules())
    assert not {id(p) for p in method.gate.learning()} & {id(p) for p in method.gate.body.parameters()}


def test_resume_in_a_later_task(small, tmp_path):  # noqa: F811
    """Inside the training and the gate's phase of the second task, beside an old extractor."""
    config = small("der_mcg")
    straight = fitted(config, tmp_path / "straight")
    resumed, times = in_pieces(lambda stop: fitted(config, tmp_path / "resumed", stop), (16, 6))
    assert times == 2
    harness.assert_same_bits(straight.run, resumed.run)
