"""What tests of whole networks share: three tasks, a method that has met some of them, and one step of it."""

from dataclasses import replace

import pytest
import torch

from cil.common.seeding import seed_everything
from cil.data.scenario import InTurn, Scenario
from cil.data.transforms.views import ImageSpec, views
from cil.engine.build import make
from cil.method import Phase
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
