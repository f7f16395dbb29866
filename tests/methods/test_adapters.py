"""Adapters and the three methods that tune them, against slow plain forms."""

import math

import pytest
import torch
import torch.nn.functional as F

from cil.backbones.vit import walk
from cil.common.errors import UserError
from cil.common.signals import StopRequest
from cil.data.frozen_features import FrozenResults
from cil.data.scenario import Scenario
from cil.engine.build import device_of, experiment, make
from cil.methods.ranpac import SHRINKAGES, RandomRidge
from cil.modules.adapters.parallel import Adapters, side_by_side
from cil.modules.heads.linear import CosineHead
from cil.runs.run_folder import RunDir
from cil.runs.settings import checked
from tests.harness import compose as composed
from tests.methods.test_contract import fitted
from tests.reference import DEPTH, WIDTH, close, images, transformer

FEW = ("train.epochs=1", "train.batch_size=12", "optim.lr=0.5")
SIZE = dict(bottleneck=4, scale=0.1, dropout=0.0)


@pytest.fixture
def small(compose, scenario, monkeypatch):
    monkeypatch.setattr("cil.engine.build.build_scenario", lambda config, backbone, images=None: scenario)
    return lambda *words: compose(*FEW, *words)


def filled(count: int = 1, dropout: float = 0.0) -> list[Adapters]:
    """Sets that have learned something, in double precision."""
    torch.manual_seed(count)
    made = [Adapters(DEPTH, WIDTH, **SIZE | {"dropout": dropout}).double() for _ in range(count)]
    for own in made:
        for parameter in own.parameters():
            torch.nn.init.normal_(parameter)
    return made


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_adapters_that_have_not_learned_leave_the_feature_as_it_is():
    backbone = make(composed("backbone=vit_tiny")["backbone"], "backbone").eval()
    fresh, x = Adapters(backbone.depth, backbone.width, **SIZE), torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(backbone(x, adapters=fresh), backbone(x))
        assert torch.equal(backbone(backbone.tokens(x).repeat(2, 1, 1), adapters=side_by_side([fresh] * 2))[5:], backbone(x))
    assert fresh[0].down.weight.abs().max() <= backbone.width**-0.5 and not any(a.down.bias.any() for a in fresh)


def test_an_adapter_stands_beside_the_mlp():
    """Each block spelled out: both see the stream after attention, the MLP behind its norm."""
    backbone, (own,) = transformer(), filled()
    x = backbone.tokens(images())
    for block, adapter in zip(backbone.trunk.blocks, own):
        x = x + block.attn(block.norm1(x))
        inner = (x @ adapter.down.weight.T + adapter.down.bias).clamp_min(0)
        x = x + block.mlp(block.norm2(x)) + 0.1 * (inner @ adapter.up.weight.T + adapter.up.bias)
    close(backbone(images(), adapters=own), backbone.trunk.norm(x)[:, 0], 1e-12)
    block, tokens = backbone.trunk.blocks[1], backbone.tokens(images())
    assert torch.equal(walk(block, tokens, None, None, None), walk(block, tokens, None))


def test_sets_side_by_side_are_each_alone():
    backbone, sets = transformer(), filled(3)
    tokens = backbone.tokens(images())
    together = backbone(tokens.repeat(3, 1, 1), adapters=side_by_side(sets)).unflatten(0, (3, -1))
    for number, own in enumerate(sets):
        close(together[number], backbone(images(), adapters=own), 1e-12)


def test_dropout_is_inside_and_for_training_alone():
    (own,), x = filled(dropout=0.5), torch.randn(2, 3, WIDTH).double()
    adapter = own[0].eval()
    close(adapter(x), 0.1 * adapter.up(adapter.down(x).relu()), 1e-12)
    adapter.train()
    torch.manual_seed(5)
    found = adapter(x)
    torch.manual_seed(5)
    left_out = torch.nn.functional.dropout(torch.ones(2, 3, 4).double(), 0.5)
    close(found, 0.1 * adapter.up(adapter.down(x).relu() * left_out), 1e-12)


def test_a_cosine_head_is_a_scale_and_cosines():
    head, x = CosineHead(16, 3), torch.randn(2, 16)
    assert head.scale.item() == 1 and 0.1 < head.weight.abs().max() <= 0.25
    with torch.no_grad():
        close(head(x), [[F.cosine_similarity(image, row, dim=0) for row in head.weight] for image in x], 1e-6)


# --- APER -------------------------------------------------------------------------------------------------------------


def test_aper_is_a_class_mean_of_plain_and_adapted_features(small, tmp_path, scenario):
    trainer = fitted(small("method=aper"), tmp_path)
    method, backbone = trainer.method, trainer.method.backbone
    assert any(adapter.up.weight.any() for adapter in method.adapters)

    def slow(shown: torch.Tensor) -> torch.Tensor:
        return torch.cat([backbone(shown), backbone(shown, adapters=method.adapters)], 1)

    with torch.no_grad():
        shown = scenario[1].test.batch(torch.arange(4)).images
        found, features = method.predict(shown), slow(shown)
        for task in scenario:  # the first one's means too are of the adapted backbone
            batch = task.train_plain.batch(torch.arange(len(task.train_plain)))
            for label in task.classes:
                mean = sum(slow(batch.images[batch.labels == label])) / int((batch.labels == label).sum())
                wanted = [float(f @ mean / f.norm() / mean.norm()) for f in features]
                close(found[:, label], wanted, 1e-5)


@pytest.mark.parametrize("method", ["aper", "ranpac"])
def test_images_are_encoded_once_after_the_first_task(small, method, tmp_path, scenario):
    """By the backbone that all later tasks have; the trained one and, for APER, also the plain one."""
    trainer = fitted(small(f"method={method}"), tmp_path)
    once = sum(len(task.train) + len(task.test) for task in scenario)
    assert trainer.encodes.total == len(scenario[0].train) + {"aper": 2, "ranpac": 1}[method] * once
    for task in scenario:
        with torch.no_grad():
            shown = task.test.batch(torch.arange(len(task.test))).images
            torch.testing.assert_close(trainer.frozen.of(task.test), trainer.method.frozen_stage(shown))


# --- RanPAC -----------------------------------------------------------------------------------------------------------


def test_any_split_into_tasks_gives_the_same_ranpac(compose, images, scenario, tmp_path, monkeypatch):
    words = ("method=ranpac", "method.tune=false", "method.shrinkage=10.0", "method.features=60")
    weights = []
    for tasks in (1, 2, 3, 6):
        cut = Scenario(images, scenario.views, name="small", tasks=tasks, first=None, order="numpy:1993")
        monkeypatch.setattr("cil.engine.build.build_scenario", lambda config, backbone, images=None, cut=cut: cut)
        trainer = fitted(compose(*words), tmp_path / str(tasks))
        weights.append(trainer.method.ridge.weight)
        assert trainer.trained_parameters == 0
    for other in weights[1:]:
        close(other, weights[0], 1e-4)
    batch = trainer.scenario[:]
    given = torch.cat([trainer.frozen.of(task.train_plain) for task in batch])
    labels = torch.cat([task.train_plain.labels for task in batch])
    lifted = (given @ trainer.method.ridge.directions).clamp_min(0).double()
    slow = torch.linalg.inv(lifted.T @ lifted + 10 * torch.eye(60)) @ lifted.T @ F.one_hot(labels).double()
    close(weights[0], slow, 1e-4)
    shown = batch[0].test.batch(torch.arange(3)).images
    with torch.no_grad():
        alone = (trainer.method.backbone(shown) @ trainer.method.ridge.directions).clamp_min(0) @ slow.float()
        torch.testing.assert_close(trainer.method.predict(shown), alone, atol=1e-4, rtol=1e-4)


def test_the_shrinkage_of_fewer_images_than_features():
    torch.manual_seed(0)
    given, labels = torch.randn(50, 5), torch.arange(50) % 4
    ridge = RandomRidge(5, 80)
    ridge.grow(4)
    lifted, wanted, errors = ridge.lift(given).double(), F.one_hot(labels, 4).double(), []
    for shrinkage in SHRINKAGES:
        rows = torch.cat([lifted[:40], math.sqrt(shrinkage) * torch.eye(80)])  # least squares with rows of their own
        weight = torch.linalg.lstsq(rows, F.pad(wanted[:40], (0, 0, 0, 80)), driver="gelsd").solution
        errors.append(float((lifted[40:] @ weight - wanted[40:]).square().mean()))
    assert ridge.best(given, labels, alone=True) == SHRINKAGES[errors.index(min(errors))]


def test_sums_without_a_factor_get_more_shrinkage():
    torch.manual_seed(0)
    ridge = RandomRidge(5, 80)
    ridge.grow(2)
    ridge.see(torch.randn(10, 5), torch.arange(10) % 2)
    assert ridge.solve(1.0) == 1.0
    assert 1e-30 < ridge.solve(1e-30) < 1e-6 and ridge.weight.isfinite().all()


def test_ranpac_tells_its_shrinkage(small, tmp_path):
    trainer = fitted(small("method=ranpac", "method.features=40"), tmp_path)
    assert trainer.method.facts()["shrinkage"] in SHRINKAGES
    assert trainer.method.head is None and trainer.method.ridge.gram.dtype == torch.double


# --- EASE -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [0.0, 0.7])
def test_ease_scores_a_class_in_all_subspaces(small, plain, tmp_path, scenario):
    """Prototypes and scores written out, a class and a subspace at a time."""
    trainer = fitted(small("method=ease", f"method.plain={plain}", "method.others=0.3"), tmp_path)
    method, backbone, tasks = trainer.method, trainer.method.backbone, list(scenario)

    def feature(shown: torch.Tensor, space: int) -> torch.Tensor:
        return backbone(shown, adapters=method.sets[space] if space >= 0 else None)

    measured, whole = {}, {}
    with torch.no_grad():
        for own, task in enumerate(tasks):
            batch = task.train_plain.batch(torch.arange(len(task.train_plain)))
            for label in task.classes:
                for space in range(-1, own + 1):
                    measured[label, space] = feature(batch.images[batch.labels == label], space).mean(0)
        for label in range(6):
            for space in range(3):
                if (label, space) in measured:
                    whole[label, space] = measured[label, space]
                    continue
                newer, own = range(2 * space, 6), label // 2
                likeness = [math.exp(F.cosine_similarity(measured[label, own], measured[c, own], dim=0)) for c in newer]
                whole[label, space] = sum(w * measured[c, space] for w, c in zip(likeness, newer)) / sum(likeness)
        shown = tasks[1].test.batch(torch.arange(5)).images
        found, features = method.predict(shown), {space: feature(shown, space) for space in range(-1, 3)}
        for label in range(6):
            cosine = [F.cosine_similarity(features[s], whole[label, s][None]) for s in range(3)]
            own = cosine.pop(label // 2)
            wanted = own + 0.3 / 2 * sum(cosine) + plain * F.cosine_similarity(features[-1], measured[label, -1][None])
            close(found[:, label], wanted, 1e-5)


def test_ease_of_one_task_has_one_subspace(small, tmp_path, scenario):
    method = experiment(config := small("method=ease"), RunDir(tmp_path).open(config), device_of("cpu"), StopRequest()).method
    method.begin_task(scenario[0])
    method.eval()
    method.end_task(scenario[0])
    assert method.prototypes.shape == (1, 2, 128)
    shown = scenario[0].test.batch(torch.arange(3)).images
    with torch.no_grad():  # the set has not learned
        features = method.backbone(shown)
        close(method.predict(shown), [[F.cosine_similarity(f, p, dim=0) for p in method.prototypes[0]] for f in features], 1e-5)


@pytest.mark.parametrize("plain", [0.0, 1.0])
def test_ease_encodes_a_test_image_once_a_subspace(small, plain, tmp_path, scenario):
    trainer = fitted(small("method=ease", f"method.plain={plain}"), tmp_path)
    method, extra = trainer.method, int(plain > 0)
    trained = sum(len(task.train) for task in scenario)
    measured = sum((task.index + 1 + extra) * len(task.train) for task in scenario)
    tested = (3 + extra) * sum(len(task.test) for task in scenario)  # of tests yet to come too, which share a block
    assert trainer.encodes.total == trained + measured + tested
    with torch.no_grad():
        for task in scenario:
            shown = task.test.batch(torch.arange(len(task.test))).images
            torch.testing.assert_close(method.known(task.test), method.everywhere(shown))
            torch.testing.assert_close(method.predict_from(method.known(task.test), None), method.predict(shown))
    assert all(isinstance(kept, FrozenResults) for kept in method.results.values()) and len(method.results) == 3 + extra


def test_a_set_of_adapters_a_task(small, tmp_path, scenario):
    trainer = fitted(small("method=ease"), tmp_path)
    sets = trainer.method.sets
    assert len(sets) == 3 and all(any(a.up.weight.any() for a in own) for own in sets)
    assert not torch.equal(sets[0][0].down.weight, sets[1][0].down.weight)
    assert len(trainer.method.head.weight) == 2  # of the last task


# --- slips ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["method=aper", "backbone=resnet_tiny"], "aper needs a backbone that takes adapters beside its MLPs"),
        (["method=ranpac", "backbone=clip_tiny"], "ranpac needs a backbone that takes adapters beside its MLPs"),
        (["method=ease", "backbone=convit_tiny"], "ease needs a backbone that takes adapters beside its MLPs"),
        (["method=aper", "method.bottleneck=0"], "method.bottleneck=0 is not a whole number from 1 on"),
        (["method=ease", "method.bottleneck=0"], "method.bottleneck=0 is not a whole number from 1 on"),
        (
            ["method=ease", "method.dropout=1.0"],
            "method.dropout=1.0 is not a number from 0 to below 1; type method.dropout=0.1",
        ),
        (["method=ease", "method.others=-0.1"], "method.others=-0.1 is not a number from 0 to 1000000; type method.others=1.0"),
        (["method=ranpac", "method.features=-1"], "method.features=-1 is not a whole number from 0 on"),
        (["method=ranpac", "method.shrinkage=0"], "method.shrinkage=0 is not a number above 0 or null"),
        (["method=ranpac", "method.tune=1"], "method.tune=1 is not true or false"),
    ],
)
def test_a_slip_is_told_in_one_line(small, words, line, tmp_path):
    with pytest.raises(UserError, match=line):
        config = checked(small(*words))
        experiment(config, RunDir(tmp_path).open(config), device_of("cpu"), StopRequest())


def test_plain_ranpac_takes_any_backbone(small, tmp_path):
    assert fitted(small("method=ranpac", "method.tune=false", "backbone=resnet_tiny", "method.features=0"), tmp_path)
