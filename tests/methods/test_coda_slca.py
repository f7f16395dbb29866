"""CODA-Prompt and SLCA against slow plain forms: mixed prefixes, what stays as it was, drawn features, the aligned head."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from cil.build import device_of, experiment
from cil.data import Batch
from cil.frozen import Known
from cil.methods.coda_prompt import CodaPrompt
from cil.methods.slca import SLCA
from cil.mistakes import Mistake
from cil.modules.components import Components
from cil.rundir import RunDir
from cil.scenario import Scenario
from cil.schedule import quarter_cosine
from cil.settings import checked
from cil.signals import Stopped, StopRequest
from tests import harness, reference
from tests.methods.test_contract import StopsAt, fitted, trainer_of
from tests.reference import WIDTH, close

FEW = ("train.epochs=1", "train.batch_size=16", "machine.checkpoint_seconds=0")


@pytest.fixture
def small(compose, scenario, monkeypatch):
    monkeypatch.setattr("cil.build.build_scenario", lambda config, backbone: scenario)
    return lambda *words: compose(*FEW, *words)


def built(config, folder):
    return experiment(config, RunDir(folder).open(config), device_of("cpu"), StopRequest())


def coda(scenario, *, orthogonality: float = 0.1, tasks: int = 2) -> CodaPrompt:
    torch.manual_seed(0)
    backbone = reference.transformer().float()
    method = CodaPrompt(backbone, components=12, length=4, blocks=[0, 2], orthogonality=orthogonality)
    for task in scenario[:tasks]:
        method.begin_task(task)
    for p in method.pool.parameters():
        p.data.add_(0.1 * torch.randn_like(p))  # as if they had learned
    return method


def slca(scenario, *, samples: int = 8, tasks: int = 2) -> SLCA:
    torch.manual_seed(0)
    backbone = reference.transformer().float()
    method = SLCA(backbone, backbone_lr=1e-4, align_epochs=2, align_lr=0.01, align_batch=16, samples=samples)
    for task in scenario[:tasks]:
        method.begin_task(task)
    return method


# --- the schedule of CODA-Prompt --------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [20, 50])
def test_a_quarter_of_a_cosine(epochs):
    factor = partial(quarter_cosine, epochs=epochs, rate=1e-3, every="epoch")
    for epoch in range(epochs):
        slow = math.cos(99 * math.pi * epoch / (200 * (epochs - 1)))
        assert factor(epoch) == factor(epoch + 0.9) == pytest.approx(slow)
    assert factor(0) == 1 and factor(epochs - 1) == pytest.approx(0.015707, rel=1e-4)


def test_a_quarter_of_a_cosine_of_one_epoch_and_in_steps():
    assert quarter_cosine(0.5, 1, 1.0, every="epoch") == 1
    assert quarter_cosine(1.5, 3, 1.0, every="step") == pytest.approx(math.cos(0.495 * math.pi / 2))
    with pytest.raises(Mistake, match=r"schedule.every=steps is not known; did you mean step"):
        quarter_cosine(0, 1, 1.0, every="steps")


# --- CODA-Prompt ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_prefixes_are_the_weighted_sum_image_by_image(scenario):
    """Of the components of the tasks begun, and of no later ones."""
    method, images = coda(scenario), reference.images(3).float()
    prompts, keys, attention = (torch.cat([*kind], 1) for kind in method.pool.kinds)
    assert prompts.shape == (2, 8, 4, WIDTH)  # of 12 components, as a third of the classes are still to come
    queries, slow = method.frozen_stage(images), {0: ([], []), 2: ([], [])}
    for query in queries:
        for number, block in enumerate(method.blocks):
            mixed = torch.zeros(4, WIDTH)
            for m in range(8):
                mixed += F.cosine_similarity(query * attention[number, m], keys[number, m], dim=0) * prompts[number, m]
            for part, rows in zip(slow[block], (mixed[:2], mixed[2:])):
                part.append(torch.stack([rows[:, 8 * head : 8 * head + 8] for head in range(3)]))
    found, wanted = method.prefixes(queries), {block: (torch.stack(k), torch.stack(v)) for block, (k, v) in slow.items()}
    assert found.keys() == wanted.keys()
    for block, pair in wanted.items():
        for one, other in zip(found[block], pair, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    features = torch.cat(
        [
            method.backbone(image[None], prefixes={b: (k[n, None], v[n, None]) for b, (k, v) in wanted.items()})
            for n, image in enumerate(images)
        ]
    )
    torch.testing.assert_close(method.features(images), features, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(method.predict(images), F.linear(features, method.head.weight, method.head.bias))


def test_a_step_is_told_the_own_classes_alone_and_teaches_the_newest_alone(scenario):
    method, task = coda(scenario), scenario[1]
    phase, batch = method.phases(task)[0], task.train.batch(torch.arange(5))
    method.requires_grad_(False)
    for p in phase.parameters:
        p.requires_grad_(True)
    losses = method.training_step(batch, phase)
    with torch.no_grad():
        logits = method.predict(batch.images)
    slow = -torch.stack([row[2:].log_softmax(0)[label - 2] for row, label in zip(logits, batch.labels)]).mean()
    close(losses["ce"].detach(), slow, 1e-5)
    sum(losses.values()).backward()
    taught = {name for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert taught == {"pool.prompts.1", "pool.keys.1", "pool.attention.1", "head.weight", "head.bias"}
    assert not method.head.weight.grad[:2].any() and not method.head.bias.grad[:2].any()


@torch.no_grad()
def test_the_loss_of_crooked_components(scenario):
    method, slow = coda(scenario), 0.0
    for kind in method.pool.kinds:
        for block in torch.cat([*kind], 1).flatten(2):
            for i, one in enumerate(block):
                for j, other in enumerate(block):
                    slow += float(one @ other - int(i == j)) ** 2 / len(block) ** 2
    assert float(method.pool.crooked()) == pytest.approx(slow, rel=1e-4)
    batch, phase = scenario[1].train.batch(torch.arange(3)), method.phases(scenario[1])[0]
    assert float(method.training_step(batch, phase)["orthogonality"]) == pytest.approx(0.1 * slow, rel=1e-4)
    assert method.training_step(batch, coda(scenario).phases(scenario[1])[0]).keys() == {"ce", "orthogonality"}
    assert coda(scenario, orthogonality=0.0).training_step(batch, phase).keys() == {"ce"}


def test_new_components_begin_at_right_angles_to_what_the_old_have_become():
    torch.manual_seed(0)
    pool = Components(2, 4, 24)
    pool.grow(5)
    for p in pool.parameters():
        p.data.mul_(3).add_(torch.randn_like(p))
    pool.grow(7)
    for kind in pool.kinds:
        for old, new in zip(*(each.detach().flatten(2) for each in kind)):
            close(new @ new.T, torch.eye(7), 1e-5)
            close(new @ F.normalize(old, dim=1).T, torch.zeros(7, 5), 1e-5)
            assert float((F.normalize(old, dim=1) @ F.normalize(old, dim=1).T - torch.eye(5)).abs().max()) > 0.05


def test_a_task_owns_the_share_of_its_classes(images, scenario):
    first = Scenario(images, scenario.views, name="x", tasks=3, first=4, order="natural")
    for tasks, shares in ((scenario, [4, 4, 4]), (first, [8, 2, 2])):
        method = coda(tasks, tasks=3)
        assert [p.shape[1] for p in method.pool.keys] == shares
    with pytest.raises(Mistake, match=r"method.components=2 leave task 1 without one; type method.components=6"):
        CodaPrompt(reference.transformer(), components=2, length=2, blocks=[0], orthogonality=0.0).begin_task(scenario[0])


def test_old_components_and_old_rows_of_the_head_stay_as_they_are(small, tmp_path):
    trainer = built(small("method=coda_prompt"), tmp_path)
    kept, end_task = [], trainer.method.end_task
    state = lambda: {name: p.detach().clone() for name, p in trainer.method.named_parameters()}  # noqa: E731
    trainer.method.end_task = lambda task: (kept.append(state()), end_task(task))
    trainer.fit()
    for task in (1, 2):
        before, after = kept[task - 1], kept[task]
        for name in before:
            rows = slice(0, 2 * task) if name.startswith("head") else slice(None)
            assert torch.equal(before[name], after[name][rows]), name
    assert trainer.trained == set()


def test_readings(small):
    assert small("method=coda_prompt")["method"]["orthogonality"] == 0.1
    assert small("method=coda_prompt", "reading=released")["method"]["orthogonality"] == 0.0


# --- SLCA -------------------------------------------------------------------------------------------------------------


def test_backbone_and_head_have_rates_of_their_own(small, tmp_path, scenario):
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


def test_alignment_is_forgotten_before_the_next_task(small, tmp_path):
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
    drawn = method.sampled(torch.tensor([3, 0]))
    for label, own, learned in ((3, drawn[0], 2), (0, drawn[1], 1)):
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
def test_a_stop_inside_the_alignment(small, when, tmp_path):
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


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["method=coda_prompt", "method.length=5"],
            "method.length=5 does not split into keys and values; type method.length=6",
        ),
        (["method=coda_prompt", "method.length=0"], "method.length=0 is not a whole number from 1 on"),
        (["method=coda_prompt", "method.components=129"], "method.components=129 cannot be at right angles in 128 dimensions"),
        (["method=coda_prompt", "method.blocks=[5,6]"], r"method.blocks=\[5, 6\] must name some of 0…5, each once"),
        (["method=coda_prompt", "method.blocks=[]"], r"method.blocks=\[\] must name some of 0…5"),
        (["method=coda_prompt", "method.orthogonality=-1"], "method.orthogonality=-1 is below 0"),
        (["method=coda_prompt", "backbone=resnet_tiny"], "coda_prompt needs a backbone that takes prompts and prefixes"),
        (["method=slca", "method.samples=0"], "method.samples=0 is not a whole number from 1 on"),
        (["method=slca", "method.align_epochs=-1"], "method.align_epochs=-1 is not a whole number from 0 on"),
        (["method=slca", "method.backbone_lr=-0.1"], "method.backbone_lr=-0.1 is below 0"),
    ],
)
def test_a_slip_is_told_in_one_line(small, words, line, tmp_path):
    with pytest.raises(Mistake, match=line):
        built(checked(small(*words)), tmp_path)


@pytest.mark.parametrize(("method", "dataset", "epochs", "at"), [
    ("coda_prompt", "cifar100_10tasks", 20, None), ("coda_prompt", "imagenet_r_10tasks", 50, None),
    ("slca", "cifar100_10tasks", 20, [18]), ("slca", "imagenet_r_10tasks", 50, [40]), ("slca", "cub200_10tasks", 50, [40]),
])  # fmt: skip
def test_published_settings(method, dataset, epochs, at):
    config = harness.compose(f"method={method}", f"scenario={dataset}")
    assert config["train"] == {"epochs": epochs, "batch_size": 128, "clip": None}
    assert config["schedule"].get("at") == at
    norm, weights = {"slca": ("imagenet", "augreg_in21k"), "coda_prompt": ("unit", "augreg_in21k_ft_in1k")}[method]
    assert config["backbone"]["image"] == {"size": 224, "norm": norm} and config["backbone"]["weights"] == f"vit_b16_{weights}"
    assert config["scenario"]["order"] == ("numpy:1993" if method == "slca" else "natural")
    assert list(config["augment"]["train"]["scale"]) == [0.08, 1.0]
