"""DyTox and Raw as they are published: numbers of parameters, rates, recipes; and what a slip is told."""

import math
from types import SimpleNamespace

import pytest

from cil.common.errors import UserError
from cil.engine.build import make
from tests import harness
from tests.methods.test_contract import small, trainer_of  # noqa: F401
from tests.methods.test_growing_transformer import FEW


@pytest.mark.parametrize(("method", "backbone", "wanted"), [
    ("dytox", "convit_dytox", 10_738_587), ("dytox", "convit_dytox_lpa", 10_738_527),  # 5,003 of them tell new from old
    ("raw", "convit_dytox", 10_730_128), ("raw", "convit_dytox_lpa", 10_730_068),
])  # fmt: skip
def test_numbers_of_parameters_on_a_hundred_classes(method, backbone, wanted):
    config = harness.compose(f"method={method}", "scenario=cifar100_10tasks", f"backbone={backbone}")
    made = make(config["method"], "method", make(config["backbone"], "backbone"))
    for index in range(10):
        one = range(0)
        made.begin_task(SimpleNamespace(index=index, classes=range(10 * index, 10 * index + 10), rivals=one, remembered=one))
    assert sum(p.numel() for name, p in made.named_parameters() if not name.startswith("teacher.")) == wanted


def test_rates_from_the_file_to_the_optimizer(small, tmp_path):  # noqa: F811
    """The first task at its rate, later ones at theirs, each on its schedule; finetuning at one that stays."""
    config = small("raw", *FEW, "train.epochs=4", "method.later_epochs=3", "optim.lr=0.01", "method.later_lr=0.02",
                   "method.tune_lr=0.005", "schedule.warm=1", "schedule.first=0.001", "schedule.over=6")  # fmt: skip
    trainer, found = trainer_of(config, tmp_path), {}

    def watch(step, learn=trainer.learn):
        learn(step)
        rates = {group["lr"] for group in step.optimizer.param_groups}
        assert len(rates) == 1 and {g["weight_decay"] for g in step.optimizer.param_groups} == {0.0, 1e-6}
        found.setdefault((step.where[0], step.phase.name), {})[step.where[2]] = rates.pop()

    trainer.learn = watch
    trainer.fit()
    for task, rate, epochs in ((0, 0.01, 4), (1, 0.02, 3), (2, 0.02, 3)):
        at = [0.001, 0.001, *(1e-5 + 0.5 * (rate - 1e-5) * (1 + math.cos(math.pi * e / 6)) for e in (1, 2))]
        assert list(found[task, "train"].values()) == pytest.approx(at[:epochs])
    assert list(found[1, "tune"].values()) == list(found[2, "tune"].values()) == pytest.approx([0.005, 0.005])


@pytest.mark.parametrize(("words", "line"), [
    (["method.herding=best"], r"method\.herding=best is not known"),
    (["method.repeats=0"], r"method\.repeats=0 is not a whole number from 1 on"),
    (["method.mixup=0.0"], r"method\.mixup=0\.0 is not a number above 0 to 100 or null"),
    (["method.smoothing=1.0"], r"method\.smoothing=1\.0 is not a number from 0 to below 1"),
    (["method.divergence=-1.0"], r"method\.divergence=-1\.0 is not a number from 0 to 1000000"),
    (["method.later_epochs=0"], r"method\.later_epochs=0 is not a whole number from 1 on"),
    (["method.later_lr=0.0"], r"method\.later_lr=0\.0 is not a number above 0 to 1000 or null"),
    (["method.tune_lr=-1.0"], r"method\.tune_lr=-1\.0 is not a number above 0 to 1000"),
    (["backbone.drop=1.0"], r"backbone\.drop=1\.0 is not a number from 0 to below 1"),
    (["backbone.heads=0"], r"backbone\.heads=0 is not a whole number from 1 on"),
    (["backbone=convit_tiny_lpa", "backbone.content=-0.1"], r"backbone\.content=-0\.1 is not a number from 0 on or null"),
    (["backbone.content=0.1"], r"backbone\.content=0\.1 needs backbone\.attention=local"),
    (["backbone.attention=lpa"], r"local \(LPA\)"),
    (["backbone=vit_tiny"], r"dytox needs a backbone that reads its patches with a token"),
])  # fmt: skip
def test_slips_are_named(small, tmp_path, words, line):  # noqa: F811
    with pytest.raises(UserError, match=line):
        trainer_of(small("dytox", *words), tmp_path)


DYTOX = {"herding": "augmented", "distil": "all", "divergence": 0.1, "mixup": None, "smoothing": 0.0, "later_epochs": None,
         "later_lr": None, "tune_lr": 2.5e-5, "tune_order": "stored", "tune_taught": False}  # fmt: skip
LPA = {"herding": "plain", "distil": "memory", "mixup": 0.8, "smoothing": 0.1, "later_epochs": 600, "later_lr": 4e-4,
       "tune_lr": 5e-5, "tune_order": "repeated", "tune_taught": True}  # fmt: skip


@pytest.mark.parametrize(("words", "wanted", "over", "order", "image", "patch", "crop"), [
    (["experiment=dytox/cifar100_10steps"], DYTOX, None, "dytox1", 32, 4, "padded"),
    (["experiment=dytox/cifar100_20steps"], DYTOX, None, "dytox1", 32, 4, "padded"),
    (["experiment=dytox/cifar100_50steps"], DYTOX, None, "dytox1", 32, 4, "padded"),
    (["method=dytox", "scenario=cifar100_5tasks"], DYTOX, None, "dytox1", 32, 4, "padded"),
    (["experiment=dytox/imagenet100_10steps"], DYTOX, None, "dytox", 224, 16, "random_resized"),
    (["experiment=lpa/cifar100_raw"], LPA, 600, "dytox1", 32, 4, "padded"),
    (["experiment=lpa/imagenet100_raw"], LPA, 600, "dytox", 224, 16, "random_resized"),
    (["experiment=lpa/cifar100_dytox_plus"], LPA | {"divergence": 0.1}, 600, "dytox1", 32, 4, "padded"),
])  # fmt: skip
def test_recipes_as_published(words, wanted, over, order, image, patch, crop):
    config = harness.compose(*words)
    method, train, optim, schedule, backbone, view = (
        config[key] for key in ("method", "train", "optim", "schedule", "backbone", "augment")
    )
    assert {key: method[key] for key in wanted} == wanted
    assert (method["memory"], method["repeats"], method["tune_epochs"]) == (2000, 3, 20)
    assert (train["epochs"], train["batch_size"], train["clip"]) == (500, 256, None)
    assert (optim["lr"], optim["weight_decay"], optim["betas"]) == (2.5e-4, 1e-6, [0.9, 0.999])
    assert (schedule["warm"], schedule["first"], schedule["last"], schedule["over"]) == (5, 1e-6, 1e-5, over)
    assert (backbone["image"]["size"], backbone["patch"], backbone["drop"], backbone["std"]) == (image, patch, 0.1, 0.02)
    assert config["scenario"]["order"] == order
    assert (view["train"]["crop"], view["train"]["flip"], view["train"]["randaugment"]) == (crop, 0.5, True)
