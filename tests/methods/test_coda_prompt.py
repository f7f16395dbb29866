"""CODA-Prompt against slow plain forms: mixed prefixes, what stays as it was; what both it and SLCA refuse."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from cil.common.errors import UserError
from cil.common.signals import StopRequest
from cil.data.scenario import Scenario
from cil.engine.build import device_of, experiment
from cil.methods.coda_prompt import CodaPrompt, Components
from cil.optim.schedules import quarter_cosine
from cil.runs.run_folder import RunDir
from cil.runs.settings import checked
from tests import harness, reference
from tests.reference import WIDTH, close

FEW = ("train.epochs=1", "train.batch_size=16", "machine.checkpoint_seconds=0")


@pytest.fixture
def small(compose, scenario, monkeypatch):
    monkeypatch.setattr("cil.engine.build.build_scenario", lambda config, backbone, images=None: scenario)
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
    with pytest.raises(UserError, match=r"method.components=2 leaves task 1 without a component; type method.components=6"):
        CodaPrompt(reference.transformer(), components=2, length=2, blocks=[0], orthogonality=0.0).suits(scenario)


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


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["method=coda_prompt", "method.length=5"],
            "method.length=5 does not split into keys and values; type method.length=6",
        ),
        (["method=coda_prompt", "method.length=0"], "method.length=0 is not a whole number from 1 on"),
        (["method=coda_prompt", "method.components=129"], "method.components=129 cannot be orthogonal in 128 dimensions"),
        (["method=coda_prompt", "method.blocks=[5,6]"], r"method.blocks=\[5, 6\] must name some of 0…5, each once"),
        (["method=coda_prompt", "method.blocks=[]"], r"method.blocks=\[\] must name some of 0…5"),
        (["method=coda_prompt", "method.orthogonality=-1"], "method.orthogonality=-1 is not a number from 0 to 1000000"),
        (["method=coda_prompt", "backbone=resnet_tiny"], "coda_prompt needs a backbone that takes prompts and prefixes"),
        (["method=slca", "method.samples=0"], "method.samples=0 is not a whole number from 1 on"),
        (["method=slca", "method.align_epochs=-1"], "method.align_epochs=-1 is not a whole number from 0 on"),
        (["method=slca", "method.backbone_lr=-0.1"], "method.backbone_lr=-0.1 is not a number from 0 on"),
    ],
)
def test_a_slip_is_told_in_one_line(small, words, line, tmp_path):
    with pytest.raises(UserError, match=line):
        built(checked(small(*words)), tmp_path)


@pytest.mark.parametrize(("method", "dataset", "epochs", "at"), [
    ("coda_prompt", "cifar100_10tasks", 20, None), ("coda_prompt", "imagenet_r_10tasks", 50, None),
    ("slca", "cifar100_10tasks", 20, [18]), ("slca", "imagenet_r_10tasks", 50, [40]), ("slca", "cub200_10tasks", 50, [40]),
])  # fmt: skip
def test_published_settings(method, dataset, epochs, at):
    config = harness.compose(f"method={method}", f"scenario={dataset}")
    assert config["train"] == {"epochs": epochs, "batch_size": 128, "clip": None, "accumulate": 1}
    assert config["schedule"].get("at") == at
    norm, weights = {"slca": ("imagenet", "augreg_in21k"), "coda_prompt": ("unit", "augreg_in21k_ft_in1k")}[method]
    assert config["backbone"]["image"] == {"size": 224, "norm": norm} and config["backbone"]["weights"] == f"vit_b16_{weights}"
    assert config["scenario"]["order"] == ("numpy:1993" if method == "slca" else "natural")
    assert list(config["augment"]["train"]["scale"]) == [0.08, 1.0]
