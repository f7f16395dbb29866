"""iCaRL, BiC and DER++: each against a slow form of its section of the specification; and two data sets in turn."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from cil.common.errors import UserError
from cil.method import Phase
from cil.methods.bic import corrected
from cil.modules.rehearsal.exemplars import nearest_sums
from tests.methods.whole_networks import cross_entropy, in_turn, learned, method_of, move, scenario, step  # noqa: F401

# --- iCaRL --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["sigmoids", "softmax"])
def test_icarls_losses(scenario, loss):  # noqa: F811
    method = method_of("icarl", f"loss={loss}", "strength=2.0", "memory=12")
    task = learned(method, scenario, 2)
    taught, (batch, losses) = method.teacher, step(method, task)
    logits, old = method.head(method.features(batch.images)), taught(batch.images)
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
def test_the_nearest_mean_of_exemplars_answers(scenario, mirror):  # noqa: F811
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


def test_no_exemplars_no_means(scenario):  # noqa: F811
    with pytest.raises(UserError, match=r"method.memory=5 holds no image of each of 6 classes; type method.memory=120"):
        method_of("icarl", "memory=5").suits(scenario)
    with pytest.raises(UserError, match=r"method.memory=0 leaves no exemplars.*method.answer=head"):
        method_of("icarl", "memory=0").suits(scenario)
    alone = method_of("icarl", "memory=0", "answer=head", "loss=sigmoids")  # LwF.MC
    task = learned(alone, scenario, 2)
    assert list(step(alone, task)[1]) == ["bce"] and not len(alone.memory)


def test_exemplars_follow_the_mean_of_what_tests_see(scenario):  # noqa: F811
    method = method_of("icarl", "memory=36")
    task = learned(method, scenario, 1)
    method.end_task(task)
    for label in task.classes:
        rows = task.train.rows[task.train.labels == label]
        features = method.features(task.train_plain.view(task.train.pixels[rows]))
        chosen = rows[nearest_sums(features.detach(), 18)]
        assert torch.equal(method.memory.rows[method.memory.labels == label], chosen)


# --- BiC ----------------------------------------------------------------------------------------------------------------


def test_images_are_trained_on_or_fitted_on(scenario):  # noqa: F811
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
def test_the_teachers_share(scenario, share, wanted):  # noqa: F811
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


def test_one_image_of_each_class_is_left_to_train_on(scenario):  # noqa: F811
    method = method_of("bic", "memory=6")
    task = learned(method, scenario, 2)
    trained, fitted = method.parted(task)
    assert fitted.labels.bincount().tolist() == [1, 1, 1, 1] and trained.labels.bincount().tolist() == [2, 2, 17, 17]
    method.memory.keep(method.memory.of(task).take(torch.tensor([0, 3])))
    trained, fitted = method.parted(task)
    assert len(fitted) == 0 and trained.labels.bincount().tolist() == [1, 1, 18, 18]
    method.end_phase(Phase("train", task, task.train, []))
    assert method.pairs[1].tolist() == [1.0, 0.0]


def test_the_fitted_pair_helps(scenario):  # noqa: F811
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


def test_pycils_softmax_of_a_softmax_is_another_pair(scenario):  # noqa: F811
    pairs = []
    for twice in (False, True):
        method = method_of("bic", "memory=20", "validation=0.5", f"double_softmax={twice}")
        task = learned(method, scenario, 2)
        method.end_phase(Phase("train", task, task.train, []))
        pairs.append(method.pairs[1])
    assert not torch.allclose(*pairs)


# --- DER++ --------------------------------------------------------------------------------------------------------------


def test_without_a_memory_it_is_finetuning_with_all_columns(scenario):  # noqa: F811
    method = method_of("derpp", "strength=0.0", "replay=0.0")
    task = learned(method, scenario, 2)
    batch, losses = step(method, task)
    assert list(losses) == ["ce"] and len(method.head.weight) == 6
    torch.testing.assert_close(losses["ce"], cross_entropy(method.head(method.features(batch.images)), batch.labels))
    assert method.predict(batch.images).shape == (8, 4)


@pytest.mark.parametrize("columns", ["all", "seen"])
def test_two_draws_beside_the_batch(scenario, columns):  # noqa: F811
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
def test_what_the_reservoir_counts(scenario, counts, shown):  # noqa: F811
    method = method_of("derpp", "memory=5", f"counts={counts}")
    task = learned(method, scenario, 1)
    phase = Phase("train", task, task.train, [])
    for epoch in range(3):
        method.begin_epoch(phase, epoch)
        step(method, task)
    assert int(method.memory.shown) == shown and len(method.memory) == 5


# --- two data sets in turn ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ewc", "lwf", "icarl", "bic", "derpp", "der_mcg"])
def test_another_data_set_is_neither_rival_nor_remembered(in_turn, name):  # noqa: F811
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
