"""One run over two processes of torchrun: the numbers of one process, and what cannot be divided is refused."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cil.common.errors import UserError
from cil.common.seeding import seed_everything
from cil.common.signals import EXIT_CODE
from cil.engine.evaluation import Evaluation
from cil.engine.processes import Processes
from cil.runs.run_folder import RunDir, read_matrices
from tests import harness
from tests.children import ranks
from tests.methods.test_contract import METHODS, small, trainer_of  # noqa: F401

WORDS = ("scenario.tasks=5", *harness.latin(25), "dataset.train_per_class=8", "dataset.test_per_class=3",
         "train.batch_size=15", "machine=cpu",
         "machine.checkpoint_seconds=0.2", "log.live=false")  # fmt: skip
ABLE = {"aper", "bic", "class_mean", "clip_prompt", "coda_prompt", "continual_clip", "coop", "dualprompt", "ease", "ewc",
        "fecam", "finetune", "icarl", "inflora", "joint", "l2p", "lae", "lwf", "mg_clip", "mos", "pet", "ranpac",
        "sd_lora", "tuna"}  # fmt: skip
UNTRAINED, FIRST_ALONE = {"class_mean", "continual_clip", "fecam"}, {"aper", "ranpac"}
CALM = {"finetune": ("optim.lr=0.001", "train.epochs=6"), "icarl": ("optim.lr=0.001", "method.memory=25"), "dualprompt": ()}


def words_of(outputs: Path, data_root: Path, *words: str) -> list[str]:
    return [*words, *WORDS, f"outputs={outputs}", f"data.root={data_root}"]


def ran(*given: object) -> RunDir:
    for done in [rank.wait() for rank in ranks(words_of(*given))]:
        assert done.returncode == 0, done.stderr[-2000:]
    return only(given[0])


def only(outputs: Path) -> RunDir:
    (folder,) = outputs.glob("*/*/*/seed0")
    return RunDir(folder)


def near(one: RunDir, two: RunDir) -> None:
    """Equal answers, and losses and weights within what the order of a sum moves."""
    for left, right in zip(harness.losses(one), harness.losses(two), strict=True):
        assert left.keys() == right.keys()
        if "losses" in left:
            assert left["losses"] == pytest.approx(right["losses"], rel=1e-4, abs=1e-5)
    first, second = read_matrices(one.path), read_matrices(two.path)
    for name, matrix in first.items():
        assert abs(matrix.correct - second[name].correct)[matrix.correct >= 0].max() <= 1
    left, right = (run.load(run.newest)["method"] for run in (one, two))
    assert left.keys() == right.keys()
    for name, value in left.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            torch.testing.assert_close(value, right[name], rtol=1e-3, atol=2e-5)
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, right[name]), name  # exemplars: the same rows


@pytest.fixture(scope="module")
def over_two_processes(data_root, tmp_path_factory) -> RunDir:
    """As a user starts them; the other tests start the two processes themselves, which spares them three imports of torch."""
    outputs = tmp_path_factory.mktemp("two")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", harness.ROOT / "run.py"]
    command = [*launcher, *words_of(outputs, data_root, "method=finetune", *CALM["finetune"])]
    done = subprocess.run(command, cwd=harness.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return only(outputs)


@pytest.mark.parametrize("method", CALM)
def test_two_processes_give_what_one_gives(method, tmp_path, data_root, request):
    words = (f"method={method}", *CALM[method])
    one = harness.execute(harness.compose(*words, *WORDS, f"outputs={tmp_path / 'one'}", f"data.root={data_root}"))
    two = request.getfixturevalue("over_two_processes") if method == "finetune" else ran(tmp_path / "two", data_root, *words)
    near(one, two)
    numbers = [run.summary() for run in (one, two)]
    assert [n["identity"].get("processes") for n in numbers] == [None, 2]
    assert numbers[0]["address"] == numbers[1]["address"]


def test_stopped_processes_stop_together_and_go_on_to_the_same_bits(tmp_path, data_root, over_two_processes):
    words = ("method=finetune", *CALM["finetune"])
    cut = tmp_path / "cut"
    two = ranks(words_of(cut, data_root, *words))
    until = time.time() + 300
    while not list(cut.glob("*/*/*/seed0/task_01.pt")) and time.time() < until:
        time.sleep(0.02)
    os.kill(two[1].pid, signal.SIGTERM)  # torchrun tells both, but not at the same step
    assert [rank.wait().returncode for rank in two] == [EXIT_CODE, EXIT_CODE]
    assert not only(cut).is_done
    harness.assert_same_bits(over_two_processes, ran(cut, data_root, *words))


def test_what_looks_at_a_whole_batch_is_refused(tmp_path, data_root):
    done = ranks(words_of(tmp_path, data_root, "method=derpp"))
    line = "DERpp with these settings learns from a batch as a whole, so processes cannot share it; type python run.py"
    for ended in [rank.wait() for rank in done]:
        assert ended.returncode == 2 and f"error: {line}" in ended.stderr


@pytest.mark.parametrize(
    "words, line",
    [
        (("dualprompt", "reading=released"), "DualPrompt with these settings learns from a batch as a whole, so processes"),
        (("finetune", "family=resnet32"), "ResNet normalises over a batch, so processes cannot share it; type python run.py"),
    ],
)
def test_settings_and_networks_that_need_a_whole_batch_are_refused(small, words, line, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("cil.engine.build.joined", lambda device: Processes(device, 0, 2))
    with pytest.raises(UserError, match=line):
        trainer_of(small(*words), tmp_path)


@pytest.mark.parametrize("method", sorted(ABLE - UNTRAINED))
def test_parts_of_a_batch_have_its_gradient(small, method, tmp_path):  # noqa: F811
    """Of every method that says so, in the second task or the next it learns in, where there is something to remember."""
    trainer, task = trainer_of(small(method), tmp_path), int(method not in FIRST_ALONE)

    def gradient(batch) -> torch.Tensor:
        seed_everything(trainer.seed, "step", *step.where)
        step.optimizer.zero_grad()
        sum(next(trainer.method.training_steps(batch, step.phase)).values()).backward()
        learned = [p for group in step.optimizer.param_groups for p in group["params"]]
        return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten().clone() for p in learned])

    for step in trainer.steps():
        if step.where[0] >= task:
            batch = trainer.batch(step)
            parts = [Processes(None, rank, 3).part(batch) for rank in range(3)]
            assert sum(weight for _, weight in parts) == pytest.approx(1)
            divided = sum(weight * gradient(part) for part, weight in parts)
            torch.testing.assert_close(divided, gradient(batch), rtol=1e-3, atol=1e-5)
            return
        trainer.learn(step)
    pytest.fail(f"{method} learned nothing from task {task + 1} on")


def test_every_test_image_is_answered_once(scenario):
    shares = [Processes(None, rank, 5).tests(scenario[1].test).rows for rank in range(5)]
    assert torch.equal(torch.cat(shares), scenario[1].test.rows)


def test_images_that_are_answered_together_are_not_divided(small, tmp_path):  # noqa: F811
    method = trainer_of(small("dualprompt", "method.vote_test=true", "method.test_batch=6"), tmp_path).method
    assert Evaluation(method, torch.device("cpu"), 250, None, Processes(None, 0, 2)).shared.size == 1
    method.test_batch = None
    assert Evaluation(method, torch.device("cpu"), 250, None, Processes(None, 0, 2)).shared.size == 2


def test_which_methods_can_be_divided(small, tmp_path):  # noqa: F811
    """A method that forgets to say so is refused for no reason; one that is added here is tested above."""
    assert {m for m in METHODS if trainer_of(small(m), tmp_path / m).method.divisible} == ABLE
    for method, word in (
        ("dualprompt", "method.vote_train=true"),
        ("l2p", "method.vote_train=true"),
        ("ease", "method.dropout=0.1"),
    ):
        assert not trainer_of(small(method, word), tmp_path / word).method.divisible
