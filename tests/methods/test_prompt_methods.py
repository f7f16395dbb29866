"""What is special about L2P and DualPrompt as learners; their numbers are in test_prompt_vectors.py."""

import pytest
import torch

from cil.common.errors import UserError
from cil.common.signals import StopRequest
from cil.engine.build import device_of, experiment
from cil.runs.run_folder import RunDir
from cil.runs.settings import checked
from tests import harness
from tests.methods.test_contract import fitted

FEW = ("train.epochs=1", "train.batch_size=12")


@pytest.fixture
def small(compose, scenario, monkeypatch):
    monkeypatch.setattr("cil.engine.build.build_scenario", lambda config, backbone, images=None: scenario)
    return lambda *words: compose(*FEW, *words)


def built(config, folder):
    return experiment(config, RunDir(folder).open(config), device_of("cpu"), StopRequest())


def test_an_expert_starts_as_a_copy_and_its_key_does_not(small, tmp_path, scenario):
    method = built(small("method=dualprompt"), tmp_path).method
    method.begin_task(scenario[0])
    before = method.expert.clone(), method.keys.clone()
    method.begin_task(scenario[1])
    assert torch.equal(method.expert[:, :, 1], before[0][:, :, 0])
    assert torch.equal(method.expert[:, :, 2:], before[0][:, :, 2:]) and torch.equal(method.keys, before[1])


def test_a_task_trains_its_own_expert_and_key(small, tmp_path):
    trainer = built(small("method=dualprompt"), tmp_path)
    kept = []
    end_task = trainer.method.end_task
    state = lambda: (trainer.method.expert.detach().clone(), trainer.method.keys.detach().clone())  # noqa: E731
    trainer.method.end_task = lambda task: (kept.append(state()), end_task(task))
    trainer.fit()
    for task in (1, 2):
        moved = (kept[task][0] != kept[task - 1][0]).flatten(3).any(-1).any(0).any(0)
        assert moved.nonzero().flatten().tolist() == [task]
        assert (kept[task][1] != kept[task - 1][1]).any(1).nonzero().flatten().tolist() == [task]


@pytest.mark.parametrize("vote", [False, True])
def test_tasks_beyond_the_pool_train_an_old_expert(small, vote, tmp_path):
    trainer = fitted(small("method=dualprompt", "method.pool=2", f"method.vote_train={vote}"), tmp_path)
    assert trainer.matrix.learned == 3
    chosen = trainer.method.of_task(torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.4]]), 2)
    assert chosen.tolist() == ([[1]] if vote else [[1], [0], [1]])


def test_without_future_experts_only_trained_ones_are_chosen(small, tmp_path, scenario):
    for future in (False, True):
        method = built(small("method=dualprompt", f"method.future_experts={future}"), tmp_path / str(future)).method
        method.begin_task(scenario[0])
        queries = method.keys[[3, 0, 3]].detach()
        chosen = []
        method.prefixes = lambda numbers, *rest, c=chosen, **named: c.append(numbers) or {}
        method.prompted(queries, scenario[0].test.batch(torch.arange(3)).images)
        assert chosen[0][:, 0].tolist() == ([3, 0, 3] if future else [0, 0, 0])


@pytest.mark.parametrize("method", ["l2p", "dualprompt"])
def test_classes_yet_to_come_compete_in_the_released_reading(small, method, tmp_path, scenario):
    for reading, scored in (("paper", [2, 4, 6]), ("released", [6, 6, 6])):
        made = built(small(f"method={method}", f"reading={reading}"), tmp_path / reading).method
        for task, classes in zip(scenario, scored):
            made.begin_task(task)
            assert made.predict(task.test.batch(torch.arange(2)).images).shape == (2, classes) == (2, made.scored(task))


@pytest.mark.parametrize("method", ["l2p", "dualprompt"])
def test_answers_depend_on_the_batch_in_the_released_reading_alone(small, method, tmp_path, scenario):
    """So the batch of a test is a setting of the method there, and the machine's cannot move a number."""
    images = scenario[0].test.batch(torch.arange(12)).images
    for reading, same in (("paper", True), ("released", False)):
        trainer = built(small(f"method={method}", f"reading={reading}", "method.pool=10"), tmp_path / reading)
        for task in scenario:
            trainer.method.begin_task(task)
        with torch.no_grad():
            whole = trainer.method.predict(images)
            halves = torch.cat([trainer.method.predict(half) for half in images.split(5)])
        assert torch.allclose(whole, halves, atol=1e-5) == same
        assert trainer.evaluation.batch_size == (trainer.machine.eval_batch_size if same else 12)


def test_a_query_chooses_the_nearest_keys(small, tmp_path, scenario):
    method = built(small("method=l2p", "method.top_k=2", "method.pool=4"), tmp_path).method
    method.begin_task(scenario[0])
    images = scenario[0].test.batch(torch.arange(5)).images
    with torch.no_grad():
        queries = method.frozen_stage(images)
        likeness = torch.nn.functional.cosine_similarity(queries[:, None], method.keys[None], dim=2)
        wanted = torch.stack([method.prompts[row.argsort(descending=True)[:2]].flatten(0, 1) for row in likeness])
        direct = method.head(method.backbone(images, prompts=wanted, read="prompts"))
        torch.testing.assert_close(method.predict(images), direct)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["method=l2p", "method.top_k=11"], "method.top_k=11 prompts of a pool of 10 cannot be chosen"),
        (["method=l2p", "method.read=cls"], "method.read=cls is not known; did you mean class?"),
        (["method=dualprompt", "method.expert_blocks=[1,2]"], r"general_blocks and expert_blocks name \[0, 1, 1, 2\]"),
        (["method=dualprompt", "method.general_blocks=[6]"], r"name each of 0…5 at most once"),
        (["method=dualprompt", "backbone=resnet_tiny"], r"dualprompt needs a backbone that takes prompts and prefixes"),
        (["method=dualprompt", "method.pool=0"], "method.pool=0 is not a whole number from 1 on"),
        (["method=dualprompt", "method.expert_length=-1"], "method.expert_length=-1 is not a whole number from 1 on"),
        (["method=l2p", "method.length=0"], "method.length=0 is not a whole number from 1 on"),
        (["method=l2p", "method.vote_test=true"], "method.vote_test=true makes answers depend on which test images"),
        (["method=dualprompt", "method.scrambled=true"], "method.scrambled=true makes answers depend on which test images"),
        (["method=l2p", "method.vote_test=flase"], "method.vote_test=flase is not true or false"),
        (["method=l2p", "method.pull=true"], "method.pull=True is not a number"),
        (["method=l2p", "method.test_batch=0"], "method.test_batch=0 is not a whole number from 1 on"),
    ],
)
def test_a_slip_is_told_in_one_line(small, words, line, tmp_path):
    with pytest.raises(UserError, match=line):
        built(checked(small(*words)), tmp_path)


@pytest.mark.parametrize("row", sorted(p.stem for p in (harness.CONF / "experiment").glob("pgp_table*/*.yaml")))
def test_rows_of_the_tables_have_the_published_settings(row):
    """Section 12 of the prompt specification, for what a scenario and a data set decide."""
    for folder in harness.CONF.glob(f"experiment/pgp_table*/{row}.yaml"):
        option = f"{folder.parent.name}/{row}"
        for method, batch in (("l2p", 16), ("dualprompt", 24)):
            config = harness.compose(f"experiment={option}", f"method={method}", "modifier=pgp", "reading=released")
            data, online = config["dataset"]["_target_"].split(".")[-1], "table3" in option
            epochs = {"cifar100": (5, 20), "tinyimagenet": (5, 5), "cub200": (5, 10), "imagenet_r": (50, 50)}[data]
            base = 0.005 if data == "imagenet_r" else 0.03
            assert config["train"]["epochs"] == (1 if online else epochs[method == "dualprompt"])
            assert config["train"] | {"epochs": 0} == {"epochs": 0, "batch_size": batch, "clip": 1.0, "accumulate": 1}
            assert config["optim"]["lr"] == pytest.approx(base * batch / 256)
            assert config["method"]["test_batch"] == batch
            assert config["backbone"]["image"] == {"size": 224, "norm": "unit"}
            weights = next((name for name in ("sam", "dino") if row.startswith(name)), "in21k")
            assert config["backbone"]["weights"] == f"vit_b16_{weights}"
