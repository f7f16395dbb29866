"""What no machine moves: operations, kernels and images through the backbone. Timings are by hand (make bench)."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cil.augment import ImageSpec
from cil.bench import Bench, clock, cost, interleaved
from cil.bench_data import FIRST_BATCH, archive, first_batch
from cil.build import device_of, experiment
from cil.rundir import RunDir
from cil.signals import StopRequest
from scripts import bench as script
from tests import harness
from tests.datasets import miniature

CPU = torch.device("cpu")
BATCH = 16


@pytest.fixture
def bench(compose, tmp_path):
    """A method's name and settings → its bench on an untrained tiny backbone."""

    def made(method: str, *words: str) -> Bench:
        config = compose(f"method={method}", *words)
        trainer = experiment(config, RunDir(tmp_path), device_of("cpu"), StopRequest())
        return Bench(trainer, batch=BATCH, rounds=1)

    return made


def test_counts_are_those_of_a_linear_layer():
    layer, inputs = torch.nn.Linear(4, 3), torch.ones(2, 4)
    with torch.no_grad():
        counted = cost(lambda: layer(inputs).view(3, 2).T.unsqueeze(0), layer)
    assert (counted.flops, counted.kernels, counted.encodes) == (2 * 2 * 4 * 3, 1, 2)
    with torch.inference_mode():
        assert cost(lambda: layer(inputs), layer) == counted
    assert cost(lambda: layer(inputs).sum().backward(), layer).kernels > 2


def test_fused_and_plain_attention_count_alike():
    layer, inputs = torch.nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.ones(3, 5, 8)
    calls = {}
    for fused in (True, False):
        torch.backends.mha.set_fastpath_enabled(fused)
        with torch.no_grad():
            calls[fused] = cost(lambda: layer(inputs, inputs, inputs, need_weights=False), layer)
    torch.backends.mha.set_fastpath_enabled(True)
    assert calls[True].flops == calls[False].flops
    assert calls[True].kernels < calls[False].kernels


def test_rounds_alternate():
    calls = []
    times = interleaved(lambda: calls.append("a"), lambda: calls.append("b"), 3, CPU)
    assert calls == ["a", "b"] * 4
    assert min(times.seconds, times.ratio_cpu, times.ratio_wall) > 0


@pytest.mark.parametrize("family", ["vit_b16_in21k", "clip_vit_b16"])
def test_a_finetuning_step_costs_three_forwards(bench, family):
    (row,) = bench("finetune", f"family={family}").step()
    assert row["trains"] and row["batch"] == BATCH
    assert 2.9 < row["flops_ratio"] <= 3.05
    assert row["image_encodes"] == 1
    assert 100 < row["kernels"] < 1000
    assert all(math.isfinite(row[key]) for key in ("ratio_cpu", "ratio_wall", "images_per_second"))


def test_training_the_head_alone_costs_one_forward(bench):
    (row,) = bench("finetune", "method.learn=head").step()
    assert row["flops_ratio"] < 1.02


def test_a_method_without_phases_says_that_it_does_not_train(bench):
    assert list(bench("class_mean").step()) == [{"row": "step", "method": "class_mean", "trains": False}]


@pytest.mark.parametrize("method", ["class_mean", "continual_clip"])
def test_a_second_evaluation_of_a_frozen_stage_costs_no_forward(bench, method):
    cold, warm = bench(method).eval()
    assert cold["image_encodes"] == 1 and cold["flops_ratio"] < 1.02
    assert warm["image_encodes"] == 0 and warm["flops_ratio"] < 0.01
    assert 0 < warm["kernels"] < 60 < cold["kernels"]


def test_evaluation_without_a_frozen_stage_costs_one_forward(bench):
    (row,) = bench("finetune").eval()
    assert row["image_encodes"] == 1 and row["flops_ratio"] < 1.02


def test_the_floor_is_one_forward(bench):
    bare, both = bench("finetune").floor()
    assert bare["flops_ratio"] == 1 and bare["kernels"] < 100
    assert 2.5 < both["flops_ratio"] <= 3


def test_the_bench_leaves_modes_and_gradients_alone(bench):
    made = bench("finetune", "method.learn=head")
    list(made.step())
    training, learning = made.backbone.training, [p.requires_grad for p in made.method.parameters()]
    list(made.floor())
    assert made.backbone.training == training
    assert [p.requires_grad for p in made.method.parameters()] == learning


def test_a_run_of_class_mean_encodes_every_image_once(compose):
    """Ten tasks: 900 training images, and each of 300 test images for the first of up to ten evaluations."""
    run = harness.execute(compose("method=class_mean"))
    assert run.summary()["image_encodes"] == 900 + 300


def test_the_first_batch_of_a_pass_waits_for_nothing(scenario):
    images = scenario[0].train
    many = replace(images, rows=images.rows.repeat(20), labels=images.labels.repeat(20))
    assert first_batch(many).shape == (FIRST_BATCH, 3, 32, 32)
    assert min(clock(lambda: first_batch(many), CPU)[1] for _ in range(5)) < 0.05


def test_an_archive_is_decoded_once_on_the_way_to_the_first_batch(tmp_path):
    miniature.zipped(miniature.tinyimagenet(train=50), tmp_path / "tiny-imagenet-200.zip")
    words = ("backbone=resnet_tiny", "dataset.md5=null", "dataset.train_per_class=50", "scenario.tasks=3")
    config = harness.compose("scenario=tinyimagenet_10tasks", f"data.root={tmp_path}", *words)
    cold, warm = archive(config, SimpleNamespace(image=ImageSpec(32, (0.5,) * 3, (0.5,) * 3)))
    assert cold["store_mib"] == warm["store_mib"] == 300 * 64 * 64 * 3 // 2**20
    assert warm["seconds"] < 1 and warm["memory_mib"] < 30
    assert not (tmp_path / "decoded").exists()


def test_the_command_prints_one_json_object_a_line(data_root, capsys):
    words = [f"data.root={data_root}", *harness.SMALL, "method=finetune"]
    assert script.main(["--rounds", "1", "--batch", "8", *words]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["row"] for row in rows] == ["floor", "floor", "step", "eval", "data", "data", "data"]
    for row in rows:
        assert row["ratio_cpu"] > 0 and row["ratio_wall"] > 0 and row["images_per_second"] > 0
    assert rows[-1]["first_batch_ms"] > 0
    assert not Path("outputs/bench").exists()


@pytest.mark.parametrize(
    "words, line",
    [
        (["flor"], "error: bench: 'flor' is not known; did you mean floor?"),
        (["step", "--rounds", "0"], "error: --rounds 0 is not a whole number from 1 on; type --rounds 1"),
        (["step", "method=finetun"], "error: method=finetun is not known; did you mean finetune?"),
    ],
)
def test_a_slip_is_told_in_one_line(words, line, capsys):
    assert script.main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.splitlines() == [line]
