"""TUNA against its steps written out: overlap, margin, the merged set, the surest set and the samples of its alignment."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from cil.common.switches import grouped
from cil.data.frozen_features import Known
from cil.data.images import Batch
from cil.methods.tuna import TUNA
from cil.modules.adapters.fusion import unified
from tests.methods.test_contract import fitted, small  # noqa: F401
from tests.reference import DEPTH, WIDTH, close, fill, images, transformer

PLAIN = dict(
    bottleneck=3, scale=0.5, dropout=0.0, start="new", sharpness=7.0, margin=0.0, orthogonality=0.0, overlap="sum", old="fixed",
    shrink="none", align_epochs=4, align_lr=0.1, align_fall=None, samples=5,
)  # fmt: skip


def task(index: int) -> SimpleNamespace:
    classes = range(2 * index, 2 * index + 2)
    return SimpleNamespace(index=index, classes=classes, seen=range(classes.stop), old=range(classes.start), train=None)


def tuna(tasks: int = 3, **settings) -> TUNA:
    """With sets that have learned something, and the set that is merged of them."""
    torch.manual_seed(0)
    method = TUNA(transformer(), **grouped(TUNA, PLAIN | settings))
    for index in range(tasks):
        method.begin_task(task(index))
        method.double().eval()
        for number, parameter in enumerate(method.sets[-1].parameters()):
            parameter.data = fill(100 * index + number + 1, *parameter.shape, scale=0.3)
        method.end_task(task(index))
    return method


def test_signs_and_magnitudes_of_the_merged_set():
    found = unified(torch.tensor([[2.0, -1.0, 0.5, 1.0, 0.0], [-1.0, -3.0, 0.5, -1.0, 0.0], [0.5, 2.0, 0.1, 0.0, 0.0]]))
    assert found.tolist() == [2.0, -3.0, 0.5, -1.0, 0.0]
    method = tuna()
    for name, merged in method.universal.named_parameters():
        versions = [own.get_parameter(name).flatten().tolist() for own in method.sets]
        for value, *own in zip(merged.flatten().tolist(), *versions):
            sign = 1 if sum(own) > 0 else -1
            assert value == sign * max(abs(version) if version * sign > 0 else 0.0 for version in own)


@torch.no_grad()
def test_answers_of_the_surest_and_of_the_merged_set():
    method, chosen = tuna(), set()

    def probabilities(image: torch.Tensor, own: torch.nn.Module) -> torch.Tensor:
        feature = method.backbone(image[None], adapters=own)[0]
        return (7 * torch.stack([F.cosine_similarity(feature, row, dim=0) for row in method.head.weight])).softmax(0)

    shown = 4 * fill(901, 8, 3, 32, 32)
    for image, sums in zip(shown, method.predict(shown)):
        each = [probabilities(image, own) for own in method.sets]
        entropies = [-sum(p * math.log(p) for p in one.tolist()) for one in each]
        surest = entropies.index(min(entropies))
        chosen.add(surest)
        close(sums, each[surest] + probabilities(image, method.universal), 1e-5)
    assert len(chosen) > 1  # not the same set for all


@pytest.mark.parametrize("overlap", ["sum", "mean"])
def test_the_loss(overlap):
    method = tuna(overlap=overlap, orthogonality=0.4, margin=0.2)
    labels = torch.tensor([4, 5, 5, 4])
    losses = method.training_step(Batch(images(), labels, torch.arange(4)), SimpleNamespace(task=task(2)))
    features = method.backbone(images(), adapters=method.sets[-1]).detach()
    wanted = 0.0
    for feature, label in zip(features, labels.tolist()):
        cosines = [float(F.cosine_similarity(feature, method.head.weight[c].detach(), dim=0)) for c in (4, 5)]
        cosines[label - 4] -= 0.2
        wanted -= float(torch.tensor([7 * c for c in cosines]).double().log_softmax(0)[label - 4]) / 4
    close(losses["ce"].detach(), wanted, 1e-5)
    new, total = method.sets[-1], 0.0
    for old in method.sets[:-1]:
        for block in range(DEPTH):
            one, other = new[block].up.weight.detach(), old[block].up.weight.detach()  # (width, bottleneck)
            if overlap == "sum":
                total += sum(abs(float(one[:, i] @ other[:, j])) for i in range(3) for j in range(3))
            else:
                pairs = [F.cosine_similarity(one[i], other[j], dim=0) for i in range(WIDTH) for j in range(WIDTH)]
                total += abs(float(sum(pairs))) / WIDTH**2 / DEPTH
    close(losses["overlap"].detach(), 0.4 * math.exp(-3) * total, 1e-10)


def test_alignment_is_over_all_classes_seen():
    method, features, labels = tuna(), fill(7, 5, WIDTH), torch.tensor([0, 5, 2, 3, 1])
    loss = method.losses_from(Known(features, labels), SimpleNamespace(task=task(2)))["ce"].detach()
    logits = torch.stack([7 * F.cosine_similarity(features, row[None]) for row in method.head.weight.detach()], 1)
    close(loss, F.cross_entropy(logits, labels), 1e-5)
    first, second = tuna(align_fall=None), tuna(align_fall=2)
    assert [round(first.falling(epoch, 4, 0.1), 3) for epoch in range(4)] == [1, 0.854, 0.5, 0.146]
    assert [round(second.falling(epoch, 4, 0.1), 3) for epoch in range(6)] == [1, 0.5, 0, 0.5, 1, 0.5]
    assert [phase.name for phase in method.phases(task(2))] == ["train", "align"]
    assert [phase.name for phase in tuna(1).phases(task(0))] == ["train"]


@pytest.mark.parametrize(("shrink", "factors"), [
    ("none", [1.0] * 6),
    ("older", [0.9 + 0.1 / 3] * 2 + [0.9 + 0.2 / 3] * 2 + [1.0] * 2),
    ("newer", [0.9 + 0.1 / 3, 0.9, 0.9, 0.9 - 0.1 / 3, 0.9 - 0.1 / 3, 0.9 - 0.2 / 3]),  # c // -2 is 0, -1, -1, -2, -2, -3
])  # fmt: skip
def test_means_at_which_features_are_drawn(shrink, factors):
    method = tuna(shrink=shrink)
    method.gaussians.means = fill(9, 6, WIDTH)
    shift = torch.as_tensor(method.shift(task(2)))
    found = method.gaussians.means + (shift[:, 0] if shift.dim() else shift)
    close(found, method.gaussians.means * torch.tensor(factors).double()[:, None], 1e-6)


def test_statistics_are_of_the_tasks_own_set(small, tmp_path, scenario):  # noqa: F811
    method = fitted(small("tuna", "method.align_epochs=1", "method.dropout=0.5"), tmp_path).method
    for own, one in enumerate(scenario):
        batch = one.train_plain.batch(torch.arange(len(one.train_plain)))
        with torch.no_grad():
            features = method.eval().backbone(batch.images, adapters=method.sets[own])
        for label in one.classes:
            torch.testing.assert_close(method.gaussians.means[label], features[batch.labels == label].mean(0))


@pytest.mark.parametrize(("words", "old", "start"), [((), "fixed", "new"), (("method.old=moving",), "moving", "previous")])
def test_what_becomes_of_old_sets(small, tmp_path, monkeypatch, words, old, start):  # noqa: F811
    """They are fixed; the released code moves their up-projections. A set begins anew, or where the one before ends."""
    kept, begun = [], []

    def copied(own: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in own.state_dict().items()}

    class Watched(TUNA):
        def begin_task(self, now):
            super().begin_task(now)
            begun.append(copied(self.sets[-1]))

        def end_task(self, now):
            super().end_task(now)
            kept.append(copied(self.sets[-1]))

    config = small("tuna", "method.orthogonality=1.0", f"method.start={start}", "method.align_epochs=1", *words)
    monkeypatch.setattr("cil.methods.tuna.TUNA", Watched)
    method = fitted(config, tmp_path).method
    for before, own in zip(kept[:2], method.sets):
        for name, value in own.state_dict().items():
            assert torch.equal(before[name], value) == (old == "fixed" or not name.endswith("up.weight")), name
    for before, fresh in zip(kept, begun[1:]):
        assert all(torch.equal(before[name], fresh[name]) == (start == "previous") for name in before if "down.weight" in name)


def test_a_test_image_is_encoded_once_a_set_and_once_a_merged_set(small, tmp_path, scenario):  # noqa: F811
    trainer = fitted(small("tuna", "method.align_epochs=1"), tmp_path)
    method = trainer.method
    trained = 3 * sum(len(one.train) for one in scenario)  # two epochs, and the statistics
    assert trainer.encodes.total == trained + 6 * sum(len(one.test) for one in scenario)
    with torch.no_grad():
        for one in scenario:
            shown = one.test.batch(torch.arange(len(one.test))).images
            torch.testing.assert_close(method.known(one.test), method.everywhere(shown))
            torch.testing.assert_close(method.predict_from(method.known(one.test), None), method.predict(shown))
