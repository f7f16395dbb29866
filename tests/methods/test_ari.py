"""ARI: a batch's steps against RAdam by hand, the fusion and the attack against slow forms, copies and chunks."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from cil.backbones.base import NORMS
from cil.common.errors import UserError
from cil.data.images import Batch
from cil.data.scenario import InTurn
from cil.engine.recipe import Step
from cil.methods.ari import disturbed, fused, limits
from tests.methods.test_contract import fitted, small, trainer_of  # noqa: F401

NO_CHANCE = ("method.attack=0.0", "train.batch_size=8")


def begun(small, tmp_path, *words: str):  # noqa: F811
    """A trainer inside the second task, its phase and a batch of both tasks."""
    trainer = trainer_of(small("ari", *words), tmp_path)
    for task in trainer.scenario[:2]:
        trainer.begin(task)
        phases = trainer.method.phases(task)
        phase = next(phases)
        if task.index == 0:
            trainer.method.end_phase(phase)
    labels = torch.tensor([0, 3, 1, 2, 2, 0, 3, 1])
    pixels = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    return trainer, phase, Batch(pixels, labels, labels, 0, labels)


def learned(trainer, phase, batch) -> list[torch.Tensor]:
    optimizer = trainer._prepare(phase, None)
    step = Step(phase, batch.indices, optimizer, 1.0, (1, 0, 0, 0))
    trainer.learn_from(step, batch)
    return [p.detach().clone() for p in trainer.method.learning()], step.losses


class RAdam:
    """As its paper writes it, one tensor after another."""

    def __init__(self, parameters, rate: float) -> None:
        self.parameters, self.rate, self.count = parameters, rate, 0
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self) -> None:
        self.count += 1
        t, most = self.count, 2 / (1 - 0.999) - 1
        length = most - 2 * t * 0.999**t / (1 - 0.999**t)
        for p, m, v in zip(self.parameters, self.first, self.second):
            gradient = torch.zeros_like(p) if p.grad is None else p.grad
            m.mul_(0.9).add_(0.1 * gradient)
            v.mul_(0.999).add_(0.001 * gradient**2)
            step = m / (1 - 0.9**t)
            if length > 5:
                rectified = math.sqrt((length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length))
                step = step * rectified * math.sqrt(1 - 0.999**t) / (v.sqrt() + 1e-8)
            p -= self.rate * step


def slow(method, batch, rate: float, *, reset: bool, fusion: str, rounds: int = 1) -> list[torch.Tensor]:
    """Two tasks of two classes without an attack, from a copy of the network."""
    network = copy.deepcopy(torch.nn.Sequential(method.backbone, method.head)).train().requires_grad_(True)
    parameters = [*network[0].parameters(), network[1].weight]
    optimizer = RAdam(parameters, rate)
    for _ in range(rounds):
        base, found = [p.detach().clone() for p in parameters], []
        for classes in (range(2), range(2, 4)):
            if reset:
                for p, old in zip(parameters, base):
                    p.data.copy_(old)
            rows = [n for n, label in enumerate(batch.labels.tolist()) if label in classes]
            probabilities = network(batch.images[rows])[:, list(classes)].sigmoid()
            loss = 0.0
            for row, number in enumerate(rows):
                for column, label in enumerate(classes):
                    p = probabilities[row, column]
                    loss -= (p if batch.labels[number] == label else 1 - p).log() / (2 * len(rows))
            network.zero_grad()
            loss.backward()
            optimizer.step()
            found.append([p.detach().clone() for p in parameters])
        share = math.exp(-1.0 * 2 / 6)  # two of six classes are old
        for place, p in enumerate(parameters):
            weights = [float((own[place] - base[place]).abs().sum()) ** 2 + 0.85 for own in found]
            mean = sum(w / sum(weights) * own[place] for w, own in zip(weights, found))
            p.data.copy_(share * (mean if fusion == "adaptive" else found[-1][place]) + (1 - share) * base[place])
    return [p.detach() for p in parameters]


@pytest.mark.parametrize(("reset", "fusion"), [(True, "adaptive"), (False, "last"), (False, "adaptive"), (True, "last")])
def test_a_step_is_radam_by_hand(small, tmp_path, reset, fusion):  # noqa: F811
    words = (f"method.reset={str(reset).lower()}", f"method.fusion={fusion}")
    trainer, phase, batch = begun(small, tmp_path, *NO_CHANCE, *words)
    wanted = slow(trainer.method, batch, 0.05, reset=reset, fusion=fusion)
    found, losses = learned(trainer, phase, batch)
    for own, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, other, atol=2e-5, rtol=1e-4)
    assert set(losses) == {"clean"} and not trainer.method.head.bias.any()


def test_several_batches_share_the_moments(small, tmp_path):  # noqa: F811
    """Six inner steps, so that RAdam begins to divide by its second moment, with one optimizer through all of them."""
    trainer, phase, batch = begun(small, tmp_path, *NO_CHANCE, "optim.lr=0.01")
    wanted = slow(trainer.method, batch, 0.01, reset=True, fusion="adaptive", rounds=4)
    optimizer = trainer._prepare(phase, None)
    for number in range(4):
        trainer.learn_from(Step(phase, batch.indices, optimizer, 1.0, (1, 0, 0, number)), batch)
    found = trainer.method.learning()
    assert {int(state["step"]) for state in optimizer.state.values()} == {8}
    differ = [float((own.detach() - other).norm() / (other.norm() + 1e-3)) for own, other in zip(found, wanted, strict=True)]
    assert max(differ) < 1e-2  # a gradient of nothing is divided by its own root


def test_the_readings_differ_and_the_released_one_interpolates(small, tmp_path):  # noqa: F811
    """Released: some of the way to where the tasks in turn lead. With beta 0 all of it."""
    ends = {}
    for name, words in {
        "paper": (),
        "released": ("reading=released",),
        "whole": ("reading=released", "method.beta=0.0"),
    }.items():
        trainer, phase, batch = begun(small, tmp_path / name, *NO_CHANCE, *words)
        base = [p.detach().clone() for p in trainer.method.learning()]
        ends[name] = learned(trainer, phase, batch)[0]
    share = math.exp(-2 / 6)
    assert any(not torch.allclose(a, b) for a, b in zip(ends["paper"], ends["released"]))
    for start, whole, part in zip(base, ends["whole"], ends["released"], strict=True):
        torch.testing.assert_close(part, (1 - share) * start + share * whole, atol=1e-6, rtol=1e-5)


def test_each_task_takes_two_steps(small, tmp_path):  # noqa: F811
    trainer, phase, batch = begun(small, tmp_path)
    taken = []
    trainer.modifiers = [
        SimpleNamespace(before_step=lambda *_: taken.append("before"), after_step=lambda *_: taken.append("after"))
    ]
    losses = learned(trainer, phase, batch)[1]
    assert taken == ["before", "after"] * 4 and set(losses) == {"clean", "attacked"}
    one = batch._replace(images=batch.images[:1], labels=batch.labels[:1], cpu_labels=batch.labels[:1])
    taken.clear()
    learned(trainer, phase, one)
    assert taken == ["before", "after"] * 2


# --- arithmetic -------------------------------------------------------------------------------------------------------


def test_fusion_of_one_tensor():
    torch.manual_seed(0)
    base = torch.randn(3, 4)
    found = [base + scale * torch.randn(3, 4) for scale in (0.01, 0.3, 1.0)]
    weights = [sum(abs(float(a - b)) for a, b in zip(own.flatten(), base.flatten())) ** 2 + 0.85 for own in found]
    mean = sum(w / sum(weights) * own for w, own in zip(weights, found))
    torch.testing.assert_close(fused(base, found, 0.4, 0.85), 0.4 * mean + 0.6 * base)
    assert torch.equal(fused(base, found[:1], 1.0, 0.85), found[0])
    torch.testing.assert_close(fused(base, found, 0.0, 0.85), base)


def test_an_attack_stays_near_the_image_and_in_its_range():
    torch.manual_seed(0)
    mean, std = NORMS["cifar100"]
    most = limits(8.0, mean, std, torch.zeros(1))
    levels = torch.rand(6, 3, 5, 5).mul(1.4).sub(0.2).clamp(0, 1)  # some at both ends
    images = (levels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    noise, gradient = (2 * torch.rand_like(images) - 1) * most[0], torch.randn_like(images)
    background = torch.rand(6, 1, 5, 5)
    found = disturbed(images, noise, gradient, background, most)
    far = (found - images).abs() * torch.tensor(std).view(3, 1, 1) * 255
    assert 1 < float(far.max()) <= 8.001
    back = found * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    assert float(back.min()) >= -1e-6 and float(back.max()) <= 1 + 1e-6
    torch.testing.assert_close(disturbed(images, noise, gradient, torch.zeros_like(background), most), images)
    b, c, y, x = 2, 1, 3, 4
    edge = 8 / 255 / std[c]
    moved = (float(noise[b, c, y, x]) + edge * math.copysign(1, float(gradient[b, c, y, x]))) * float(background[b, 0, y, x])
    moved = float(images[b, c, y, x]) + max(-edge, min(edge, moved))
    assert float(found[b, c, y, x]) == pytest.approx(max(-mean[c] / std[c], min((1 - mean[c]) / std[c], moved)), abs=1e-5)


@pytest.mark.parametrize(("norm", "std"), [("data", (0.5, 0.5, 0.5)), ("imagenet", NORMS["imagenet"][1])])
def test_an_attack_counts_in_the_norm_it_is_told(small, tmp_path, norm, std):  # noqa: F811
    trainer, phase, batch = begun(small, tmp_path, f"method.attack_norm={norm}", "method.attack=4.0")
    moved = trainer.method.attacked(0 * batch.images, batch.labels, torch.ones(8, 1, 32, 32), phase.task)
    for channel in range(3):
        assert float(moved[:, channel].abs().max()) == pytest.approx(4 / 255 / std[channel], rel=1e-4)
    assert not moved.requires_grad


def test_an_attack_makes_its_loss_larger(small, tmp_path):  # noqa: F811
    trainer, phase, batch = begun(small, tmp_path, "method.attack=8.0")
    method = trainer.method.train()
    method.head.weight.data.mul_(20)

    def loss(images) -> float:
        return float(F.cross_entropy(method.head(method.backbone(images)), batch.labels))

    moved = method.attacked(batch.images, batch.labels, torch.ones(8, 1, 32, 32), phase.task)
    assert loss(moved) > loss(batch.images)


# --- copies, memory, tests --------------------------------------------------------------------------------------------


def test_the_memory_is_the_data_sets_first(small, tmp_path, scenario):  # noqa: F811
    trainer = fitted(small("ari", "method.memory=12", "train.epochs=1"), tmp_path)
    memory = trainer.method.memory
    for task in scenario:
        for label in task.classes:
            first = task.train.rows[task.train.labels == label][:2]
            assert memory.rows[memory.labels == label].tolist() == first.tolist()


def test_copies_answer_inside_the_task_of_the_plain_network(small, tmp_path, scenario):  # noqa: F811
    words = ("method.copies=all", "method.leaky_chunk=4", "method.adapt_lr=0.05", "train.epochs=1")
    trainer = fitted(small("ari", *words), tmp_path)
    method, tasks = trainer.method, trainer.method.tasks
    batch = scenario[1].test.batch(torch.arange(10))
    with torch.no_grad():
        plain = method.head(method.backbone(batch.images))
        found, inner = method.predict(batch.images), []
        for number, network in enumerate(method.adapted.values()):
            assert not torch.equal(network[1].weight, method.head.weight)  # it has learned
            inner.append(network(batch.images)[:, tasks[number]])
        for image in range(10):
            task = max(range(3), key=lambda t, image=image: float(plain[image, tasks[t]].max()))
            assert int(found[image].argmax()) == tasks[task].start + int(inner[task][image].argmax())
            for t in range(3):
                assert float(found[image, tasks[t]].max()) == float(plain[image, tasks[t]].max())
                assert int(found[image, tasks[t]].argmax()) == int(inner[t][image].argmax())
        method.copies = "chosen"
        assert torch.equal(method.predict(batch.images).argmax(1), found.argmax(1))
        votes = [sum(float(plain[image, tasks[t]].max()) for image in range(4)) for t in range(3)]
        task = votes.index(max(votes))
        answers = method.together(found[:4]).argmax(1)
        assert answers.tolist() == [tasks[task].start + int(inner[task][image].argmax()) for image in range(4)]


def test_chunks_are_counted_beside(small, tmp_path, scenario):  # noqa: F811
    words = ("method.copies=all", "method.leaky_chunk=5", "train.epochs=1")
    trainer = fitted(small("ari", *words), tmp_path)
    right = []
    with torch.no_grad():
        for task in scenario:
            scores = trainer.method.predict(task.test.batch(torch.arange(12)).images)
            answers = torch.cat([trainer.method.together(part).argmax(1) for part in (scores[:5], scores[5:10], scores[10:])])
            right.append(int((answers == task.test.labels).sum()))
    assert trainer.matrices["leaky_il"].correct[2].tolist() == right
    assert set(fitted(small("ari", "train.epochs=1"), tmp_path / "none").matrices) == {"class_il", "task_il"}


def test_without_copies_or_memory_the_plain_network_answers(small, tmp_path, scenario):  # noqa: F811
    images = scenario[0].test.batch(torch.arange(6)).images
    for words in (("method.adapt_epochs=0",), ("method.memory=0",)):
        method = fitted(small("ari", *words, "train.epochs=1"), tmp_path / words[0]).method
        with torch.no_grad():
            torch.testing.assert_close(method.predict(images), method.head(method.backbone(images)))


def test_two_data_sets_in_turn(small, tmp_path, scenario, monkeypatch):  # noqa: F811
    """ARI-1: of the first data set nothing is kept, its copies are the plain network; ARI-2: all are."""
    parts = replace(scenario.images, parts=(("a", 3), ("b", 3)))
    counts = {}
    for heads, exemplars in (("separate", "own"), ("joint", "all")):
        made = InTurn(parts, scenario.views, name="turn", tasks=1, order="natural", heads=heads, exemplars=exemplars)
        monkeypatch.setattr("cil.engine.build.build_scenario", lambda config, backbone, images=None, made=made: made)
        trainer = fitted(small("ari", "train.epochs=1"), tmp_path / heads)
        counts[heads] = trainer.method.memory.labels.unique().tolist()
        assert {"class_il", "task_il", "dataset_il"} == set(trainer.matrices)
    assert counts == {"separate": [3, 4, 5], "joint": [0, 1, 2, 3, 4, 5]}


def test_classes_to_come_may_compete_in_the_attack(small, tmp_path):  # noqa: F811
    trainer, _, batch = begun(small, tmp_path, "method.attack_future=true")
    assert len(trainer.method.head.weight) == 6
    with torch.no_grad():
        assert trainer.method.predict(batch.images).shape == (8, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.fusion=mean"], "method.fusion=mean is not known"),
        (["method.attack_norm=cifar"], "method.attack_norm=cifar is not known"),
        (["method.copies=none"], "method.copies=none is not known"),
        (["method.least=0.0"], "method.least=0.0 is not a number above 0"),
        (["method.leaky_chunk=20"], "method.leaky_chunk needs the copies of all tasks"),
        (["backbone=resnet_tiny"], r"ari needs a backbone that shows where in an image it looks \(backbone=rps_net"),
    ],
)
def test_wrong_settings_are_told(small, tmp_path, words, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        trainer_of(small("ari", *words), tmp_path)
