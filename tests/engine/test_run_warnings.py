"""What should make a reader doubt a number is said with it."""

import math
import os
import signal
import time

import pytest
import torch

from cil.engine.run_warnings import Doubts, Still, guessing, of_accuracies
from cil.methods.ranpac import RandomRidge
from cil.metrics import AccuracyMatrix
from tests import harness
from tests.launch.test_run import in_child, wait

TWO = ("scenario.tasks=2", "machine=cpu", "log.live=false")


def told(class_il, task_il=None, classes=None) -> str:
    whole = AccuracyMatrix.of_percents(class_il, [300] * len(class_il))
    own = AccuracyMatrix.of_percents(task_il or [[90.0] * len(row) for row in class_il], [300] * len(class_il))
    return "\n".join(of_accuracies(whole, own, classes or [10] * len(class_il)))


def test_good_numbers_are_not_doubted():
    assert told([[95.0], [80.0, 90.0], [70.0, 75.0, 90.0]]) == ""
    assert told([[99.0], [0.0, 99.0], [0.0, 0.0, 99.0]]) == "", "to forget everything is what finetune does"
    assert told([[math.nan], [math.nan, math.nan], [60.0, 70.0, 80.0]]) == "", "an upper bound is measured once"


def test_chance_a_task_that_was_not_learned_and_a_fall_are_told():
    assert told([[95.0], [80.0, 85.0], [3.0, 4.0, 3.0]]).splitlines() == [
        "the accuracy over all classes is 3.3 %, where guessing gives 3.3 %",
        "the accuracy over all classes fell from 82.5 to 3.3 % with task 3",
    ]
    assert told([[95.0], [80.0, 2.0]], [[95.0], [90.0, 11.0]]) == (
        "the accuracy on the last task, with the task told, is 11.0 %, where guessing gives 10.0 %"
    )


def test_few_test_images_are_not_called_a_failure():
    own = AccuracyMatrix.of_percents([[100.0]], [4])
    assert list(of_accuracies(own, own, [2])) == [
        "100.0 % over all classes are of 4 test images, too few to tell it from guessing (50.0 %)",
        "100.0 % on the last task, with the task told, are of 4 test images, too few to tell it from guessing (50.0 %)",
    ]


def test_guessing_is_what_luck_reaches():
    """Two standard deviations of a binomial."""
    assert guessing(10, 300) == pytest.approx(100 * (0.1 + 2 * math.sqrt(0.09 / 300)))


def test_parameters_that_stay_are_noticed():
    one, other = torch.nn.Parameter(torch.randn(5)), torch.nn.Parameter(torch.randn(2, 3))
    still = Still([one, other])
    assert still
    with torch.no_grad():
        other[0, 0] += 1e-3
    assert not still and not Still([])


def test_tasks_are_listed_once():
    doubts = Doubts()
    for task in (0, 1, 1):
        doubts.add("it stood still", task)
    assert doubts.told() == ["it stood still (task 1, 2)"]


def test_a_run_that_learns_nothing_says_so(compose, capsys):
    run = harness.execute(compose("method=finetune", "backbone=resnet_tiny", "optim.lr=1e-30", "optim.momentum=0", *TWO))
    warnings = run.summary()["warnings"]
    told = "the parameters of phase train did not move (task 1, 2)"
    assert told in warnings and f"warning: {told}" in capsys.readouterr().out


# --- RanPAC near its peak ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ridge() -> tuple[RandomRidge, torch.Tensor, torch.Tensor]:
    """160 images of a task after 640 of others, about as many as random features."""
    random = torch.Generator().manual_seed(0)
    means = torch.randn(50, 16, generator=random)
    labels = torch.arange(50).repeat_interleave(16)
    features = means[labels] + 0.8 * torch.randn(len(labels), 16, generator=random)
    torch.manual_seed(0)
    made = RandomRidge(16, 800)
    made.grow(50)
    made.see(features[:640], labels[:640])
    return made, features[640:], labels[640:]


def test_the_shrinkage_is_that_of_the_least_error_with_the_old_sums(ridge):
    made, features, labels = ridge
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    features, labels = features[order], labels[order]
    lifted, wanted = made.lift(features).double(), torch.nn.functional.one_hot(labels, 50).double()
    seen, rest = slice(0, 128), slice(128, None)
    errors = {}
    for power in range(-8, 9):  # slowly: one inverse for each shrinkage
        system = made.gram + lifted[seen].T @ lifted[seen] + 10.0**power * torch.eye(800, dtype=torch.double)
        weight = torch.linalg.solve(system, made.towards + lifted[seen].T @ wanted[seen])
        errors[10.0**power] = float((lifted[rest] @ weight - wanted[rest]).square().mean())
    assert made.best(features, labels, alone=False) == min(errors, key=errors.get)


def test_a_peak_is_as_many_images_as_features_and_no_shrinkage(ridge):
    made, features, labels = ridge
    assert made.near_its_peak(1e-8) and not made.near_its_peak(100.0)
    few = RandomRidge(16, 100)
    few.grow(50)
    few.see(features, labels)
    assert few.near_its_peak(1e-8)
    few.see(features, labels)
    assert not few.near_its_peak(1e-8), "320 images and 100 features"


def test_ranpac_is_steady_with_twenty_images_a_class_and_its_released_choice_is_not(data_root, outputs):
    """80 % after nine tasks and 2 % after ten: 2,000 images, 2,000 features and a shrinkage of 1e-8."""
    found = {}
    for reading in ("paper", "released"):
        words = ("method=ranpac", "method.tune=false", f"reading={reading}", "dataset.train_per_class=20", "machine=cpu")
        config = harness.compose(*words, f"outputs={outputs}", f"data.root={data_root}", "log.live=false", "data.features=null")
        found[reading] = harness.execute(config).summary()
    assert found["paper"]["class_il"]["acc"] > 80 and found["paper"]["warnings"] == []
    assert found["released"]["class_il"]["acc"] < 10
    told = "\n".join(found["released"]["warnings"])
    assert "about as many images as the 2000 features, and a shrinkage of 1e-08" in told and "fell from" in told


def test_what_stood_still_is_noticed_when_the_run_was_killed_inside_the_phase(compose):
    words = ("method=finetune", "backbone=resnet_tiny", "optim.lr=1e-30", "optim.momentum=0", "train.epochs=12", *TWO)
    config = compose(*words, "machine.checkpoint_seconds=0")
    child, run = in_child(config), harness.run_of(config)
    while not (run.path / "inside.pt").exists():
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    wait(child)
    assert not run.is_done
    assert "the parameters of phase train did not move (task 1, 2)" in harness.execute(config).summary()["warnings"]
