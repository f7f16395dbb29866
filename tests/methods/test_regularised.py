"""EWC and LwF: each against a slow form of its section of the specification."""

import copy

import pytest
import torch

from tests.harness import compose
from tests.methods.whole_networks import cross_entropy, learned, log_softmax, method_of, move, scenario, step  # noqa: F401

# --- EWC ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("combine", "cap"), [("sum", "null"), ("sum", "1e-4"), ("mean", "1e-4")])
def test_springs_are_fisher_times_squared_drift(scenario, combine, cap):  # noqa: F811
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


def test_springs_come_back_from_a_checkpoint(scenario):  # noqa: F811
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
def test_the_network_before_the_task_teaches(scenario, columns, squared):  # noqa: F811
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


def test_the_teacher_is_still(scenario):  # noqa: F811
    method = method_of("lwf")
    learned(method, scenario, 2)
    before = copy.deepcopy(method.teacher.state_dict())
    method.train()
    step(method, scenario[1])
    assert not method.teacher.training and not any(p.requires_grad for p in method.teacher.parameters())
    after = method.teacher.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_head_may_warm_up(scenario):  # noqa: F811
    method = method_of("lwf", "warm_epochs=2")
    assert learned(method, scenario, 1) and [phase.name for phase in method.phases(scenario[0])] == ["train"]
    method.begin_task(scenario[1])
    warm, _ = method.phases(scenario[1])
    assert (warm.name, warm.epochs) == ("warm", 2)
    assert {id(p) for p in warm.parameters} == {id(p) for p in method.head.parameters()}


def test_images_whose_gradients_are_taken_one_by_one_are_counted(compose, scenario, tmp_path, monkeypatch):  # noqa: F811
    from tests.methods.test_contract import fitted

    monkeypatch.setattr("cil.engine.build.build_scenario", lambda config, backbone, images=None: scenario)
    words = ("train.epochs=1", "train.batch_size=9", "backbone=resnet_tiny", "method.images=20")
    trainer = fitted(compose("method=ewc", *words), tmp_path)
    tests = sum(12 * (number + 1) for number in range(3))
    assert trainer.encodes.total == 3 * 36 + 2 * 20 + tests
