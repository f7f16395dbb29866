import torch
import torch.nn.functional as F

from cil.engine.build import make
from cil.method import Phase
from cil.methods.finetune import Finetune
from cil.methods.joint import Joint
from tests.harness import compose


def backbone():
    return make(compose("backbone=resnet_tiny")["backbone"], "backbone")


def test_the_two_readings_of_the_loss(scenario):
    for columns, first in (("seen", 0), ("new", 2)):
        method = Finetune(backbone(), columns=columns, learn="all").eval()
        method.begin_task(scenario[0])
        method.begin_task(scenario[1])
        batch = scenario[1].train.batch(torch.arange(6))
        loss = method.training_step(batch, Phase("train", scenario[1], scenario[1].train, []))["ce"]
        logits = method.predict(batch.images)
        slow = -sum(F.log_softmax(row[first:], 0)[label - first] for row, label in zip(logits, batch.labels)) / 6
        torch.testing.assert_close(loss, slow)
        loss.backward()
        old = method.head.weight.grad[:2].abs().sum()
        assert (old > 0) == (columns == "seen")


def test_only_the_head_learns_when_asked(scenario):
    method = Finetune(backbone(), columns="seen", learn="head")
    method.begin_task(scenario[0])
    assert {id(p) for p in method.phases(scenario[0])[0].parameters} == {id(p) for p in method.head.parameters()}


def test_a_grown_head_keeps_its_rows(scenario):
    method = Finetune(backbone(), columns="seen", learn="all")
    method.begin_task(scenario[0])
    before = method.head.weight.detach().clone()
    method.begin_task(scenario[1])
    assert torch.equal(method.head.weight[:2], before) and len(method.head.weight) == 4


def test_joint_trains_once_on_everything_or_after_each_task(scenario):
    for curve, sizes in ((False, [0, 0, 108]), (True, [36, 72, 108])):
        method, got = Joint(backbone(), curve=curve), []
        for task in scenario:
            method.begin_task(task)
            got.append(sum(len(phase.data) for phase in method.phases(task)))
            assert method.answers(task) == (got[-1] > 0)
        assert got == sizes
