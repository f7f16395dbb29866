"""SLCA: rates of body and head, statistics, and the alignment of heads."""

import pytest
import torch

from cil.common.signals import Stopped
from cil.data.frozen_features import Known
from cil.data.images import Batch
from cil.methods.slca import SLCA
from cil.modules.heads.aligned import Alignment
from cil.runs.run_folder import RunDir
from tests import harness, reference
from tests.methods.test_coda_prompt import FEW, built, small  # noqa: F401
from tests.methods.test_contract import StopsAt, fitted, trainer_of
from tests.reference import WIDTH


def slca(scenario, *, samples: int = 8, tasks: int = 2) -> SLCA:
    torch.manual_seed(0)
    backbone = reference.transformer().float()
    method = SLCA(backbone, backbone_lr=1e-4, alignment=Alignment(2, 0.01, samples), align_batch=16)
    for task in scenario[:tasks]:
        method.begin_task(task)
    return method


# --- the schedule of CODA-Prompt --------------------------------------------------------------------------------------


def test_backbone_and_head_have_rates_of_their_own(small, tmp_path, scenario):  # noqa: F811
    trainer = built(small("method=slca", "schedule.at=[18]"), tmp_path)
    trainer.begin(scenario[0])
    (phase,) = trainer.method.phases(scenario[0])
    head, body = trainer._prepare(phase, None).param_groups
    assert [(g["lr"], g["weight_decay"], g["momentum"]) for g in (head, body)] == [(0.01, 5e-4, 0.9), (1e-4, 5e-4, 0.9)]
    assert sum(p.numel() for p in head["params"]) == 2 * (128 + 1)
    assert {id(p) for p in body["params"]} == {id(p) for p in trainer.method.backbone.parameters()}
    assert [trainer.recipe.schedule(epoch, 20, 0.01) for epoch in (0, 17.9, 18)] == pytest.approx([1, 1, 0.1])


def test_training_is_told_the_own_classes_alone(scenario):
    method, task = slca(scenario), scenario[1]
    phase, batch = method.phases(task)[0], task.train.batch(torch.arange(5))
    method.requires_grad_(True)
    loss = method.training_step(batch, phase)["ce"]
    weight, bias = method.learned[1].weight, method.learned[1].bias
    slow = 0.0
    for image, label in zip(batch.images, batch.labels):
        logits = (weight * method.backbone(image[None])).sum(1) + bias
        slow = slow - logits.log_softmax(0)[label - 2] / 5
    torch.testing.assert_close(loss, slow)
    loss.backward()
    assert all(p.grad is None for p in [*method.learned[0].parameters(), *method.head.parameters()])
    assert method.learned[1].weight.grad.any() and all(p.grad is not None for p in method.backbone.image_parameters())


def test_alignment_is_forgotten_before_the_next_task(small, tmp_path):  # noqa: F811
    """What was learned of old classes is the same bits at the start of every alignment, though a test saw it aligned."""
    trainer = built(small("method=slca", "method.align_lr=0.1"), tmp_path)
    method, begun, tested, end_phase = trainer.method, [], [], trainer.method.end_phase

    def copied(heads=method.head):
        return torch.cat([torch.cat([own.weight.detach().T, own.bias.detach()[None]]) for own in heads], 1)

    def watched(phase):
        end_phase(phase)
        if phase.name == "train":
            begun.append(copied())

    method.end_phase, method.end_task = watched, lambda task: tested.append(copied())
    trainer.fit()
    assert torch.equal(begun[0], tested[0])  # nothing to align in the first task
    for task in (1, 2):
        old = slice(0, 2 * task)
        assert torch.equal(begun[task][:, old], begun[task - 1])
        assert not torch.equal(tested[task][:, old], begun[task][:, old])
        assert all((tested[task] != begun[task]).any(0))  # every class was aligned
    assert torch.equal(begun[2], copied(method.learned))
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        slow = torch.cat([method.backbone(image), torch.ones(1, 1)], 1) @ tested[2]
        torch.testing.assert_close(method.predict(image), slow)


@torch.no_grad()
def test_statistics_are_of_plain_images_and_samples_lie_where_they_should(scenario):
    method = slca(scenario, samples=60_000).eval()
    for task in scenario[:2]:
        method.end_phase(method.phases(task)[0])
    method.begin_epoch(method.phases(scenario[1])[1], 0)
    drawn = method.drawn.unflatten(0, (4, -1))
    for label, own, learned in ((3, drawn[3], 2), (0, drawn[0], 1)):
        plain = scenario[learned - 1].train_plain
        features = torch.stack([
            method.backbone(plain.batch(torch.tensor([k])).images)[0] for k in range(len(plain)) if plain.labels[k] == label
        ])  # fmt: skip
        mean, count = features.mean(0), len(features)
        slow = sum(torch.outer(f - mean, f - mean) for f in features) / (count - 1) + 1e-4 * torch.eye(WIDTH)
        spread = slow.diagonal().sqrt()
        error = (own.mean(0) - (0.9 + 0.1 * learned / 2) * mean) / spread
        assert float(error.abs().max()) < 5 / 60_000**0.5
        assert float(((own.T.cov() - slow) / torch.outer(spread, spread)).abs().max()) < 0.03


def test_the_loss_of_alignment(scenario):
    method = slca(scenario, tasks=3)
    features, labels, phase = torch.randn(5, WIDTH), torch.tensor([0, 5, 2, 3, 1]), method.phases(scenario[2])[1]
    slow = 0.0
    with torch.no_grad():
        for feature, label in zip(features, labels):
            logits = torch.cat([own.weight @ feature + own.bias for own in method.head])
            lengths = [float(logits[2 * task : 2 * task + 2].square().sum().sqrt()) for task in range(3)]
            slow -= float((logits / (sum(lengths) / 3) / 0.1).log_softmax(0)[label]) / 5
    losses = method.losses_from(Known(features, labels), phase)
    assert losses.keys() == {"ce"} and float(losses["ce"].detach()) == pytest.approx(slow, rel=1e-4)
    assert [id(p) for p in phase.parameters[0]["params"]] == [id(p) for p in method.head.parameters()]


def test_an_epoch_draws_anew_as_many_of_each_class(scenario):
    method = slca(scenario)
    method.end_phase(method.phases(scenario[0])[0])
    train, align = method.phases(scenario[1])
    method.end_phase(train)
    assert (align.epochs, align.batch_size, align.parameters[0]["lr"]) == (2, 16, 0.01)
    assert [align.schedule(at, 2, 0.01) for at in (0, 0.9, 1)] == pytest.approx([1, 1, 0.5])
    assert align.data.labels.tolist() == [label for label in range(4) for _ in range(8)]
    seen = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        method.begin_epoch(align, 0)
        seen.append(align.data.batch(torch.tensor([31, 0, 8]), "cpu", torch.Generator()))
        assert not isinstance(seen[-1], Batch) and seen[-1].labels.tolist() == [3, 0, 1]
        torch.testing.assert_close(seen[-1].frozen, method.drawn[[31, 0, 8]])
    assert torch.equal(seen[0].frozen, seen[1].frozen) and not (seen[0].frozen == seen[2].frozen).any()
    assert len(align.data) == len(align.data.rows) == 32


@pytest.mark.parametrize("when", [8, 9, 11])
def test_a_stop_inside_the_alignment(small, when, tmp_path):  # noqa: F811
    """Three steps of training a task; the alignment of the second has two epochs of two steps, looks 8 to 11."""
    config = small("method=slca", "method.align_epochs=2", "method.samples=32", "method.align_batch=64")
    straight, stop = fitted(config, tmp_path / "straight"), StopsAt(when)
    with pytest.raises(Stopped):
        fitted(config, tmp_path / "resumed", stop)
    run = RunDir(tmp_path / "resumed")
    assert run.load(run.newest)["inside"]["phase"] == 1
    harness.assert_same_bits(straight.run, fitted(config, tmp_path / "resumed").run)


def test_separate_heads_are_aligned_among_their_own(data_root, outputs, tmp_path):
    parts = [f"dataset.{part}" for part in ("first", "second")]
    few = [f"{part}.{key}" for part in parts for key in ("train_per_class=9", "test_per_class=3", "classes=4")]
    words = ("scenario=latin_to_greek", "scenario.tasks=2", "scenario.heads=separate", "scenario.exemplars=own")
    places = (f"outputs={outputs}", f"data.root={data_root}", "backbone.weights=null", "backbone.sha256=null")
    config = harness.compose("method=slca", *words, *few, *places, "machine=cpu", "log.live=false", *FEW)
    trainer = trainer_of(config, tmp_path)
    phases, tested, method = [], [], trainer.method
    method.end_task = lambda task: tested.append(torch.cat([own.weight.detach() for own in method.head]))
    end_phase = method.end_phase
    method.end_phase = lambda phase: (
        phases.append((phase.task.index, phase.name, set(phase.data.labels.tolist()))),
        end_phase(phase),
    )
    trainer.fit()
    assert [(task, labels) for task, name, labels in phases if name == "align"] == [(1, set(range(4))), (3, set(range(4, 8)))]
    assert torch.equal(tested[3][:4], tested[1]) and torch.equal(tested[2][:4], tested[1])  # the first data set's, as aligned
