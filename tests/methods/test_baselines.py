"""EWC, LwF, iCaRL, BiC and DER++: each against a slow form of its section of the specification."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from cil.augment import ImageSpec, views
from cil.build import make
from cil.method import Phase
from cil.mistakes import Mistake
from cil.modules.bias import corrected
from cil.modules.herding import nearest_sums
from cil.scenario import InTurn, Scenario
from cil.seeding import seed_everything
from tests.harness import compose

NETWORK = compose("backbone=resnet_tiny")["backbone"]


IMAGE = ImageSpec(32, (0.5,) * 3, (0.5,) * 3)
TWO_VIEWS = views(IMAGE, train={"crop": "whole"}, test={"crop": "centre", "resize": 280})  # neither has chance, and they differ


@pytest.fixture(scope="session")
def scenario(images) -> Scenario:
    """Three tasks of two characters, which tests see nearer than training does."""
    return Scenario(images, TWO_VIEWS, name="small", tasks=3, first=None, order="numpy:1993")


@pytest.fixture(scope="session")
def in_turn(images) -> InTurn:
    """Two data sets of three characters, one task each character; what is of the first is neither a rival nor remembered."""
    parts = replace(images, parts=(("first", 3), ("second", 3)))
    own = dict(tasks=3, order="natural", heads="separate", exemplars="own")
    return InTurn(parts, TWO_VIEWS, name="in_turn", **own)


def method_of(name: str, *words: str):
    node = compose(f"method={name}", *(f"method.{word}" for word in words))["method"]
    seed_everything(0, "test")
    return make(node, "method", make(NETWORK, "backbone")).eval()


def learned(method, scenario, tasks: int):
    """As after some tasks: nothing was trained, weights were moved by hand, and what is kept at a task's end is kept."""
    for task in scenario[:tasks]:
        method.begin_task(task)
        if task.index + 1 < tasks:
            for phase in method.phases(task):
                method.end_phase(phase)
            method.end_task(task)
            move(method)
    return scenario[tasks - 1]


def move(method) -> None:
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if not name.startswith("teacher."):
                parameter += 0.05 * torch.randn_like(parameter)


def step(method, task, rows=8):
    batch = task.train.batch(torch.arange(0, len(task.train), len(task.train) // rows)[:rows])
    with torch.no_grad():
        return batch, method.training_step(batch, Phase("train", task, task.train, []))


def log_softmax(row: torch.Tensor) -> torch.Tensor:
    return row - torch.log(sum(torch.exp(value) for value in row))


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return -sum(log_softmax(row)[label] for row, label in zip(logits, labels)) / len(labels)


# --- EWC ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("combine", "cap"), [("sum", "null"), ("sum", "1e-4"), ("mean", "1e-4")])
def test_springs_are_fisher_times_squared_drift(scenario, combine, cap):
    method = method_of("ewc", "images=12", "batch=5", f"combine={combine}", f"cap={cap}", "decay=0.5", "strength=7.0")
    names = [name for name, _ in method.network.named_parameters()]
    weight: dict[str, torch.Tensor] = {}
    for task in scenario[:2]:
        method.begin_task(task)
        torch.manual_seed(5)
        places = torch.randperm(len(task.train))[:12]
        seen = task.train_plain.view(task.train.pixels[task.train.rows[places]])
        labels = task.train.labels[places]
        found = {name: torch.zeros_like(method.network.get_parameter(name)) for name in names}
        for image, label in zip(seen, labels):
            method.zero_grad()
            (-log_softmax(method.predict(image[None])[0])[label]).backward()
            for name in names:
                found[name] += method.network.get_parameter(name).grad ** 2 / 12
        for name in names:
            new = found[name] if cap == "null" else found[name].clamp_max(1e-4)
            if task.index:
                old, share = weight[name], 2 / 4
                new = new.clone()
                both = 0.5 * old + new[: len(old)] if combine == "sum" else share * old + (1 - share) * new[: len(old)]
                new[: len(old)] = both if cap == "null" else both.clamp_max(1e-4)
            weight[name] = new
        torch.manual_seed(5)
        method.end_task(task)
        for name in names:
            torch.testing.assert_close(method.springs.all("weight")[name], weight[name], rtol=1e-3, atol=1e-7)
    anchor = {name: method.network.get_parameter(name).detach().clone() for name in names}
    method.begin_task(scenario[2])
    move(method)
    batch, losses = step(method, scenario[2])
    slow = sum(
        (weight[name] * (method.network.get_parameter(name).detach()[: len(old)] - old) ** 2).sum()
        for name, old in anchor.items()
    )
    torch.testing.assert_close(losses["drift"], 7.0 / 2 * slow, rtol=1e-3, atol=0)
    torch.testing.assert_close(losses["ce"], cross_entropy(method.predict(batch.images), batch.labels))
    assert losses["drift"] > 0


def test_springs_come_back_from_a_checkpoint(scenario):
    method, other = method_of("ewc", "images=4"), method_of("ewc", "images=4")
    learned(method, scenario, 2)
    for task in scenario[:2]:
        other.begin_task(task)
    other.load_state_dict(method.state_dict())
    _, one = step(method, scenario[1])
    _, two = step(other, scenario[1])
    assert one["drift"] > 0 and one == two


def test_pycils_springs_are_those_of_a_batch():
    released = compose("method=ewc", "reading=released")["method"]
    assert (released["fisher"], released["combine"], released["columns"]) == ("batch", "mean", "new")
    assert (released["cap"], released["strength"]) == (1e-4, 1000.0)


# --- LwF ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["new", "seen"])
@pytest.mark.parametrize("squared", [False, True])
def test_the_network_before_the_task_teaches(scenario, columns, squared):
    method = method_of("lwf", "strength=3.0", f"squared={squared}", f"columns={columns}")
    learned(method, scenario, 1)
    before = copy.deepcopy(method)
    method.begin_task(scenario[1])
    move(method)
    batch, losses = step(method, scenario[1])
    logits, taught = method.predict(batch.images), before.predict(batch.images)
    first = 2 if columns == "new" else 0
    torch.testing.assert_close(losses["ce"], cross_entropy(logits[:, first:], batch.labels - first))
    slow = 0.0
    for row, old in zip(logits, taught):
        wanted = torch.exp(log_softmax(old / 2))
        slow -= (wanted * log_softmax(row[:2] / 2)).sum() / len(logits)
    torch.testing.assert_close(losses["distil"], 3.0 * slow * (4 if squared else 1))


def test_the_teacher_is_still(scenario):
    method = method_of("lwf")
    learned(method, scenario, 2)
    before = copy.deepcopy(method.teacher.state_dict())
    method.train()
    step(method, scenario[1])
    assert not method.teacher.training and not any(p.requires_grad for p in method.teacher.parameters())
    after = method.teacher.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_head_may_warm_up(scenario):
    method = method_of("lwf", "warm_epochs=2")
    assert learned(method, scenario, 1) and [phase.name for phase in method.phases(scenario[0])] == ["train"]
    method.begin_task(scenario[1])
    warm, _ = method.phases(scenario[1])
    assert (warm.name, warm.epochs) == ("warm", 2)
    assert {id(p) for p in warm.parameters} == {id(p) for p in method.head.parameters()}


# --- iCaRL --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["sigmoids", "softmax"])
def test_icarls_losses(scenario, loss):
    method = method_of("icarl", f"loss={loss}", "strength=2.0", "memory=12")
    task = learned(method, scenario, 2)
    taught, (batch, losses) = method.teacher, step(method, task)
    logits, old = method.predict_by_head(batch.images), taught(batch.images)
    if loss == "softmax":
        torch.testing.assert_close(losses["ce"], cross_entropy(logits, batch.labels))
        slow = -(F.softmax(old / 2, 1) * F.log_softmax(logits[:, :2] / 2, 1)).sum() / len(logits)
        torch.testing.assert_close(losses["distil"], 2 * slow)
        return
    slow = 0.0
    for row, teacher, label in zip(logits, old, batch.labels):
        for column, value in enumerate(row):
            wanted = teacher[column].sigmoid() if column < 2 else float(column == label)
            slow -= (wanted * value.sigmoid().log() + (1 - wanted) * (1 - value.sigmoid()).log()) / len(logits)
    torch.testing.assert_close(losses["bce"], slow)


@pytest.mark.parametrize("mirror", [True, False])
def test_the_nearest_mean_of_exemplars_answers(scenario, mirror):
    method = method_of("icarl", "memory=13", f"mirror={mirror}")
    for task in scenario[:2]:
        learned_task = task
        method.begin_task(task)
        method.end_task(task)
        move(method)
    method.end_task(learned_task)  # the means follow the network, of old classes too
    assert method.memory.labels.bincount().tolist() == [3, 3, 3, 3]
    image, scores = scenario[0].test.batch(torch.arange(1)).images, []
    feature = F.normalize(method.features(image)[0], dim=0)
    for label in range(4):
        features = []
        for row in method.memory.rows[method.memory.labels == label]:
            shown = scenario[0].train_plain.view(scenario[0].train.pixels[row[None]])
            own = F.normalize(method.features(shown)[0], dim=0)
            if mirror:
                own = (own + F.normalize(method.features(shown.flip(3))[0], dim=0)) / 2
            features.append(F.normalize(own, dim=0))
        mean = F.normalize(sum(features) / 3, dim=0)
        scores.append(-(feature - mean).square().sum() / 2 + 1)  # of unit vectors: the nearest has the largest product
    torch.testing.assert_close(method.predict(image)[0], torch.stack(scores), rtol=1e-4, atol=1e-5)


def test_no_exemplars_no_means(scenario):
    with pytest.raises(Mistake, match=r"method.memory=5 holds no image of each of 6 classes; type method.memory=120"):
        method_of("icarl", "memory=5").begin_task(scenario[0])
    with pytest.raises(Mistake, match=r"method.memory=0 leaves no means.*method.answer=head"):
        method_of("icarl", "memory=0").begin_task(scenario[0])
    alone = method_of("icarl", "memory=0", "answer=head", "loss=sigmoids")  # LwF.MC
    task = learned(alone, scenario, 2)
    assert list(step(alone, task)[1]) == ["bce"] and not len(alone.memory)


def test_exemplars_follow_the_mean_of_what_tests_see(scenario):
    method = method_of("icarl", "memory=36")
    task = learned(method, scenario, 1)
    method.end_task(task)
    for label in task.classes:
        rows = task.train.rows[task.train.labels == label]
        features = method.features(task.train_plain.view(task.train.pixels[rows]))
        chosen = rows[nearest_sums(features.detach(), 18)]
        assert torch.equal(method.memory.rows[method.memory.labels == label], chosen)


# --- BiC ----------------------------------------------------------------------------------------------------------------


def test_images_are_trained_on_or_fitted_on(scenario):
    method = method_of("bic", "memory=20", "validation=0.3")
    task = learned(method, scenario, 2)
    trained, fitted = method.parted(task)
    assert fitted.labels.bincount().tolist() == [3, 3, 3, 3]  # 0.3 of 10
    assert trained.labels.bincount().tolist() == [7, 7, 15, 15]
    assert not set(trained.rows.tolist()) & set(fitted.rows.tolist())
    again = method.parted(task)[1]
    assert torch.equal(again.rows, fitted.rows)
    method.draw += 1
    assert not torch.equal(method.parted(task)[1].rows, fitted.rows)


@pytest.mark.parametrize(("share", "wanted"), [("classes", [1 / 2, 2 / 3]), ("tasks", [1 / 2, 1 / 3])])
def test_the_teachers_share(scenario, share, wanted):
    """Ten equal tasks: 0.5 in the second, 0.9 in the last; here a half, and two thirds of three."""
    for number, part in enumerate(wanted, 1):
        fresh = method_of("bic", "memory=12", f"share={share}")
        task = learned(fresh, scenario, number + 1)
        fresh.pairs[:] = torch.tensor([[1.0, 0.0], [0.7, 0.3], [1.0, 0.0]])[: number + 1]
        batch, losses = step(fresh, task)
        logits = corrected(fresh.head(fresh.features(batch.images)), fresh.pairs, fresh.task_of)
        torch.testing.assert_close(losses["ce"], (1 - part) * cross_entropy(logits, batch.labels))
        taught, old = fresh.teacher(batch.images), 2 * number
        if number == 2:
            taught[:, 2:4] = 0.7 * taught[:, 2:4] + 0.3
        slow = -(F.softmax(taught / 2, 1) * F.log_softmax(logits[:, :old] / 2, 1)).sum() / len(logits)
        torch.testing.assert_close(losses["distil"], part * slow)
    tenth = SimpleNamespace(rivals=range(100), classes=range(90, 100), index=9)
    assert method_of("bic", f"share={share}").teachers_share(tenth) == (0.9 if share == "classes" else 0.1)


def test_one_image_of_each_class_is_left_to_train_on(scenario):
    method = method_of("bic", "memory=6")
    task = learned(method, scenario, 2)
    trained, fitted = method.parted(task)
    assert fitted.labels.bincount().tolist() == [1, 1, 1, 1] and trained.labels.bincount().tolist() == [2, 2, 17, 17]
    method.memory.keep(method.memory.of(task).take(torch.tensor([0, 3])))
    trained, fitted = method.parted(task)
    assert len(fitted) == 0 and trained.labels.bincount().tolist() == [1, 1, 18, 18]
    method.end_phase(Phase("train", task, task.train, []))
    assert method.pairs[1].tolist() == [1.0, 0.0]


def test_the_fitted_pair_helps(scenario):
    method = method_of("bic", "memory=20", "validation=0.5")
    task = learned(method, scenario, 2)
    with torch.no_grad():
        method.head.bias[2:] += 4.0  # as if the network liked new classes
    images = method.parted(task)[1]
    shown = task.train_plain.view(images.pixels[images.rows])
    with torch.no_grad():
        before = method.predict(shown)
        method.end_phase(Phase("train", task, task.train, []))
        after = method.predict(shown)
    assert cross_entropy(after, images.labels) < cross_entropy(before, images.labels)
    assert torch.equal(before[:, :2], after[:, :2]) and method.facts()["shift"] < 0
    assert method.pairs[0].tolist() == [1.0, 0.0]


def test_pycils_softmax_of_a_softmax_is_another_pair(scenario):
    pairs = []
    for twice in (False, True):
        method = method_of("bic", "memory=20", "validation=0.5", f"double_softmax={twice}")
        task = learned(method, scenario, 2)
        method.end_phase(Phase("train", task, task.train, []))
        pairs.append(method.pairs[1])
    assert not torch.allclose(*pairs)


# --- DER++ --------------------------------------------------------------------------------------------------------------


def test_without_a_memory_it_is_finetuning_with_all_columns(scenario):
    method = method_of("derpp", "strength=0.0", "replay=0.0")
    task = learned(method, scenario, 2)
    batch, losses = step(method, task)
    assert list(losses) == ["ce"] and len(method.head.weight) == 6
    torch.testing.assert_close(losses["ce"], cross_entropy(method.head(method.features(batch.images)), batch.labels))
    assert method.predict(batch.images).shape == (8, 4)


@pytest.mark.parametrize("columns", ["all", "seen"])
def test_two_draws_beside_the_batch(scenario, columns):
    method = method_of("derpp", "memory=10", f"columns={columns}", "memory_batch=4")
    task = learned(method, scenario, 1)
    _, losses = step(method, task)
    assert list(losses) == ["ce"] and len(method.memory) == 8
    width = 6 if columns == "all" else 2
    assert method.memory.logits.shape == (8, width) and method.memory.known.tolist() == [width] * 8
    method.begin_task(scenario[1])
    move(method)
    memory = copy.deepcopy(method.memory)
    torch.manual_seed(3)
    _, losses = step(method, scenario[1])
    torch.manual_seed(3)
    for name in ("mse", "replay"):
        places = memory.draw(4, range(4))
        shown = scenario[1].train.view(scenario[1].train.pixels[memory.rows[places]])
        now = method.head(method.features(shown))
        if name == "mse":
            slow = sum((now[n, c] - memory.logits[p, c]) ** 2 for n, p in enumerate(places) for c in range(width)) / (4 * width)
            torch.testing.assert_close(losses[name], 0.3 * slow)
        else:
            torch.testing.assert_close(losses[name], 0.5 * cross_entropy(now, memory.labels[places]))


@pytest.mark.parametrize(("counts", "shown"), [("showing", 24), ("image", 8)])
def test_what_the_reservoir_counts(scenario, counts, shown):
    method = method_of("derpp", "memory=5", f"counts={counts}")
    task = learned(method, scenario, 1)
    phase = Phase("train", task, task.train, [])
    for epoch in range(3):
        method.begin_epoch(phase, epoch)
        step(method, task)
    assert int(method.memory.shown) == shown and len(method.memory) == 5


def test_images_whose_gradients_are_taken_one_by_one_are_counted(compose, scenario, tmp_path, monkeypatch):
    from tests.methods.test_contract import fitted

    monkeypatch.setattr("cil.build.build_scenario", lambda config, backbone: scenario)
    words = ("train.epochs=1", "train.batch_size=9", "backbone=resnet_tiny", "method.images=20")
    trainer = fitted(compose("method=ewc", *words), tmp_path)
    tests = sum(12 * (number + 1) for number in range(3))
    assert trainer.encodes == 3 * 36 + 2 * 20 + tests


# --- two data sets in turn ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ewc", "lwf", "icarl", "bic", "derpp", "der_mcg"])
def test_another_data_set_is_neither_rival_nor_remembered(in_turn, name):
    small = {"icarl": ["memory=6"], "bic": ["memory=6"], "derpp": ["memory=6"], "ewc": ["images=4"]}
    method = method_of(name, *small.get(name, ["memory=6", "gate_width=8", "centroids=3"] if name == "der_mcg" else []))
    for task in in_turn[:5]:
        method.begin_task(task)
        phases = [Phase(phase.name, task, phase.data, phase.parameters) for phase in method.phases(task)]
        for phase in phases:
            method.begin_epoch(phase, 0)
            for _ in range(2):
                batch = phase.data.batch(torch.arange(0, len(phase.data), 2))
                method.zero_grad()
                losses = method.training_step(batch, phase)
                sum(loss for kind, loss in losses.items() if kind != "drift").backward()
            if phase.name == "gate":
                assert not method.gate.centroids.grad[:9].any() or task.index < 3
            else:
                assert not method.head.weight.grad[:3].any() or task.index < 3, f"{name}: task {task.index}"
            assert phase.data.labels.min() >= task.rivals.start
            method.end_phase(phase)
        method.end_task(task)
        move(method)
        if hasattr(method, "memory"):
            assert method.memory.labels.min() >= task.remembered.start
