"""BOFA against its steps written out: the statistics, the prototypes, the safe directions, both readings of the prediction."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cil.common.errors import UserError
from cil.common.switches import grouped
from cil.data.frozen_features import Known
from cil.methods.bofa import BOFA, precision, texts_weight
from tests.methods.test_contract import fitted, small  # noqa: F401
from tests.reference import close, fill

WIDTH, INNER, RANK = 5, 9, 3
PAPER = dict(fusion="added", prototypes="moving", scale="exp", swapped=False, candidates="task", discriminant=0.0)
RELEASED = dict(fusion="averaged", prototypes="fixed", scale="log", swapped=True, candidates="all", discriminant=0.1)


class Bridge(nn.Module):
    """Features are images; a text is a fixed vector that depends on its number."""

    width = text_width = WIDTH
    image_tower = text_parameters = embed = context = encode_contexts = room_for = property(lambda self: nn.Identity())

    def __init__(self, bridge: torch.Tensor) -> None:
        super().__init__()
        self.width, self.logit_scale, self.bridge = len(bridge), torch.tensor(7.0, dtype=torch.double), bridge

    def forward(self, images: torch.Tensor, *, project: bool = True) -> torch.Tensor:
        return images @ self.bridge.T if project else images

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.stack([fill(int(text.split()[-1]) + 50, self.width) for text in texts])


def made(bridge: torch.Tensor | None = None, **settings) -> BOFA:
    given = dict(templates=["a photo of {}"], underscores=False, rank=RANK, share=None, low_epochs=2, head_epochs=6, aside={})
    method = BOFA(Bridge(fill(3, WIDTH, INNER) if bridge is None else bridge), **grouped(BOFA, given | settings))
    return method.double()


def task(classes: range, index: int, features: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
    return SimpleNamespace(
        classes=classes, index=index, names=[str(label) for label in classes], old=range(classes.start),
        seen=range(classes.stop), rivals=range(classes.stop), train=None, train_plain=SimpleNamespace(labels=labels),
        frozen=SimpleNamespace(of=lambda images: features), features=features, labels=labels,
    )  # fmt: skip


def tasks() -> list[SimpleNamespace]:
    found = []
    for index, classes in enumerate((range(4), range(4, 6), range(6, 9))):
        labels = torch.tensor([label for label in classes for _ in range(6)])
        features = torch.stack([fill(200 + label, INNER) for label in labels.tolist()])
        found.append(task(classes, index, features + 0.7 * fill(90 + index, len(labels), INNER), labels))
    return found


def learned(method: BOFA, own: SimpleNamespace) -> torch.Tensor:
    """Learns a task with a made-up change of the projection, which is returned."""
    method.frozen = own.frozen
    method.begin_task(own)
    method.double()
    (first, *_) = method.phases(own)
    method.begin_epoch(first, 0)
    method.weight.data += fill(500 + own.index, *method.weight.shape, scale=0.3)
    trained = method.weight.detach().clone()
    method.end_phase(first)
    method.end_task(own)
    return trained


def unit(values: torch.Tensor) -> torch.Tensor:
    return values / values.norm()


@pytest.mark.parametrize(("reading", "fusion"), [(PAPER, "added"), (RELEASED, "averaged")])
def test_the_projection_after_three_tasks(reading, fusion):
    method, first = made(**reading), fill(3, WIDTH, INNER)
    fused, trained, yielded, moments = first, first, [], torch.zeros(INNER, INNER).double()
    for own in tasks():
        begins = fused if fusion == "added" else trained
        trained = begins + fill(500 + own.index, WIDTH, INNER, scale=0.3)
        close(learned(method, own), trained, 1e-6)
        base = fused if fusion == "added" else first
        new = trained
        if own.index:
            values, vectors = torch.linalg.eigh(moments)
            directions = [vectors[:, place] for place in values.argsort()[:RANK]]
            new = base + sum(torch.outer((trained - base) @ one, one) for one in directions)
        yielded.append(new)
        fused = new if fusion == "added" else sum(yielded) / len(yielded)
        close(method.fused, fused, 1e-6)
        for row in own.features:
            moments = moments + torch.outer(row, row) / (1 if fusion == "added" else len(own.features) - 1)


def test_old_features_hardly_feel_the_change():
    """The mean square of the change of old features is that of the smallest eigenvalues."""
    method = made(**PAPER)
    (first, second, _) = tasks()
    learned(method, first)
    before = method.fused.clone()
    trained = learned(method, second)
    whole, kept = (first.features @ (one - before).T for one in (trained, method.fused))
    assert kept.square().mean() < 0.1 * whole.square().mean()


@pytest.mark.parametrize("reading", [PAPER, RELEASED])
def test_the_weight_of_the_images(reading):
    """Among 0, 0.05, … 1 for the texts, the least with which most images of the first task are right."""
    method, own = made(**reading), tasks()[0]
    learned(method, own)
    first, best = fill(3, WIDTH, INNER), (-1, None)
    images = [unit(first @ own.features[own.labels == label].mean(0)) for label in own.classes]
    texts = [unit(fill(label + 50, WIDTH)) for label in own.classes]
    for step in range(21):
        weight, right = step / 20, 0
        for row, label in zip(own.features, own.labels.tolist()):
            cosines = [float(unit(first @ row) @ ((1 - weight) * i + weight * t)) for i, t in zip(images, texts)]
            right += cosines.index(max(cosines)) == label
        best = max(best, (right, -weight), key=lambda pair: pair[0])
    close(method.share, -best[1] if reading["swapped"] else 1 + best[1], 1e-6)
    close(made(share=0.3, **reading).share, 0.0)
    features, labels = torch.eye(3).repeat(2, 1), torch.arange(3).repeat(2)
    assert texts_weight(features, labels, torch.eye(3), -torch.eye(3)) == 0.0
    assert 0.5 < texts_weight(features, labels, -torch.eye(3), torch.eye(3)) < 0.6  # the first that is better


@pytest.mark.parametrize("reading", [PAPER, RELEASED])
def test_losses(reading):
    method = made(**reading)
    first, second, _ = tasks()
    learned(method, first)
    method.frozen = second.frozen
    method.begin_task(second)
    method.double()
    phase = method.phases(second)[0]
    method.begin_epoch(phase, 0)
    moving = reading["prototypes"] == "moving"
    begun = [unit((method.fused if moving else fill(3, WIDTH, INNER)) @ mean) for mean in method.means]
    method.weight.data += fill(700, WIDTH, INNER, scale=0.3)
    losses = method.losses_from(Known(second.features, second.labels), phase)
    means = [own.features[own.labels == label].mean(0) for own in (first, second) for label in own.classes]
    prototypes, weight = [], method.weight.detach()
    for label, (mean, before) in enumerate(zip(means, begun)):
        old = (method.fused if moving else fill(3, WIDTH, INNER)) @ mean
        close(unit(old), before, 1e-6)
        image = 0.95 * old + 0.05 * weight @ mean if moving else old
        prototypes.append(method.share * unit(image) + (1 - method.share) * unit(fill(label + 50, WIDTH)))
    scale, wanted = 7.0 if moving else math.log(7.0), 0.0
    for row, label in zip(second.features, second.labels.tolist()):
        logits = torch.stack([scale * unit(weight @ row) @ one for one in prototypes])
        wanted -= float(logits.log_softmax(0)[label]) / len(second.features)
    close(losses["ce"].detach(), wanted, 1e-6)
    assert ("head" in losses) == (reading["candidates"] == "task")
    if "head" in losses:  # it begins as the linear discriminant analysis of the task
        units = [unit(row) for row in second.features]
        own = {c: sum(u for u, label in zip(units, second.labels.tolist()) if label == c) / 6 for c in second.classes}
        apart = torch.stack([u - own[label] for u, label in zip(units, second.labels.tolist())])
        covariance = sum(torch.outer(row, row) for row in apart) / 11
        inverse = INNER * torch.linalg.inv(11 * covariance + covariance.trace() * torch.eye(INNER))
        wanted = 0.0
        for u, label in zip(units, second.labels.tolist()):
            logits = torch.stack([m @ inverse @ u - m @ inverse @ m / 2 - math.log(2) for m in own.values()])
            wanted -= float(logits.log_softmax(0)[label - 4]) / 12
        close(losses["head"].detach(), wanted, 1e-5)
        method.begin_epoch(phase, 6)
        assert set(method.losses_from(Known(second.features, second.labels), phase)) == {"ce"}
    if len(phases := method.phases(second)) > 1:
        method.end_phase(phases[0])
        close(method.changed().detach(), method.base() + method.low.detach() @ method.basis.T, 1e-9)
        method.losses_from(Known(second.features, second.labels), phases[1])["ce"].backward()
        assert method.low.grad is not None and method.weight.grad is None


def test_each_task_sends_one_class():
    method, shown = made(**PAPER), fill(800, 12, INNER)
    for own in tasks():
        learned(method, own)
    scores = method.predict_from(shown, None).detach()
    for row, found in zip(shown, scores):
        candidates, start = [], 0
        for head in method.heads:
            own = (head.weight @ unit(row) + head.bias).tolist()
            candidates.append(start + own.index(max(own)))
            start += len(own)
        cosines = []
        for label, mean in enumerate(method.means):
            mixed = method.share * unit(method.fused @ mean) + (1 - method.share) * unit(fill(label + 50, WIDTH))
            cosines.append(float(unit(method.fused @ row) @ mixed))
        assert int(found.argmax()) == max(candidates, key=lambda label: cosines[label])
        close(found[candidates], [cosines[label] for label in candidates], 1e-5)
        others = [label for label in range(9) if label not in candidates]
        assert found[others].max() < found[candidates].min()
        assert sorted(others, key=lambda label: found[label]) == sorted(others, key=lambda label: cosines[label])


def test_the_released_prediction_is_mostly_the_discriminant():
    method, shown, inverse = made(**RELEASED), fill(800, 7, INNER), None
    for own in tasks():
        learned(method, own)
        units = torch.stack([unit(row) for row in own.features])
        means = {label: units[own.labels == label].mean(0) for label in own.classes}
        new = precision(torch.stack([u - means[label] for u, label in zip(units, own.labels.tolist())]))
        before, now = len(own.old), len(own.classes)
        if inverse is None:
            inverse, every = new, [*means.values()]
            continue
        gap = torch.stack(every).mean(0) - torch.stack([*means.values()]).mean(0)
        seen = before + now
        inverse = before / seen * inverse + now / seen * new + before / seen * now / seen**2 * torch.outer(gap, gap)
        every += means.values()
    for row, found in zip(shown, method.predict_from(shown, None).detach()):
        for label, mean in enumerate(every):
            image = unit(fill(3, WIDTH, INNER) @ method.means[label])
            cosine = unit(method.fused @ row) @ (method.share * image + (1 - method.share) * unit(fill(label + 50, WIDTH)))
            own = mean @ inverse @ unit(row) - mean @ inverse @ mean / 2 - math.log(9)
            close(found[label], 0.1 * own + 0.9 * cosine, 1e-4)


def test_settings_that_do_not_fit():
    with pytest.raises(UserError, match=r"^method.rank=12, but features are 9 wide; type method.rank=4$"):
        made(rank=12, **PAPER)
    with pytest.raises(UserError, match="bofa needs a backbone that projects its image features to its texts by one matrix"):
        BOFA(nn.Linear(2, 2), **grouped(BOFA, dict(templates=["{}"], underscores=False, rank=1, share=None, low_epochs=1,
                                                   head_epochs=1, aside={}) | PAPER))  # fmt: skip


def test_an_image_is_encoded_once_for_all_tasks_and_runs(small, tmp_path, scenario):  # noqa: F811
    words = ("augment.train.crop=whole", "augment.train.flip=0.0")
    for number, reading in enumerate(("paper", "released")):
        trainer = fitted(small("bofa", f"reading={reading}", *words), tmp_path / str(number))
        assert trainer.encodes.total == sum(len(part) for own in scenario for part in (own.train, own.test))
        assert trainer.method.fused.ne(trainer.method.backbone.bridge).any()
    assert not list(itertools.chain(trainer.method.heads.parameters()))
