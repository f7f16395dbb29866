"""What no machine moves: operations, kernels and images through the backbone. Timings are by hand (make bench)."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cil.bench import text
from cil.bench.data import FIRST_BATCH, archive, first_batch
from cil.bench.harness import Bench, clock, cost, interleaved
from cil.commands import bench as script
from cil.common.signals import StopRequest
from cil.data.images import Batch
from cil.data.transforms.views import ImageSpec
from cil.engine.build import device_of, experiment, make
from cil.runs.run_folder import RunDir
from tests import harness
from tests.data.datasets import miniature

CPU = torch.device("cpu")
BATCH = 16


@pytest.fixture
def bench(compose, tmp_path):
    """A method's name and settings → its bench on an untrained tiny backbone."""

    def made(method: str, *words: str, batch: int = BATCH, rounds: int = 1) -> Bench:
        config = compose(f"method={method}", *words)
        trainer = experiment(config, RunDir(tmp_path), device_of("cpu"), StopRequest())
        return Bench(trainer, batch=batch, rounds=rounds)

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


@pytest.mark.parametrize(("family", "least", "most"), [("vit_b16_in21k", 2.5, 2.65), ("clip_vit_b16", 2.9, 3.05)])
def test_a_finetuning_step_costs_three_forwards(bench, family, least, most):
    """Of six blocks the last is computed for the class token alone, which is worth 13 % here and 7 % of ViT-B/16."""
    (row,) = bench("finetune", f"family={family}").step()
    assert row["trains"] and row["batch"] == BATCH
    assert least < row["flops_ratio"] <= most
    assert row["image_encodes"] == 1
    assert 100 < row["kernels"] < 1000
    assert all(math.isfinite(row[key]) for key in ("ratio_cpu", "ratio_wall", "images_per_second"))


def test_augmentation_costs_less_than_a_tenth_of_a_step(bench):
    made = bench("dytox", "backbone=convit_tiny", "+augment.train.randaugment=true", batch=64, rounds=5)
    (row,) = made.step()
    assert 0 < row["share_of_the_batch"] < 0.1


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


# --- the prompt methods on ViT-B/16 at 224 pixels -----------------------------------------------------------------------


@pytest.fixture
def large(compose, tmp_path):
    """Untrained ViT-B/16; two images are enough, since neither ratios of operations nor kernels depend on the batch."""

    def made(method: str, *words: str, batch: int = 2) -> Bench:
        config = compose(f"method={method}", "backbone=vit_b16_in21k", "augment=random_resized_crop", *words)
        trainer = experiment(config, RunDir(tmp_path), device_of("cpu"), StopRequest())
        return Bench(trainer, batch=batch, rounds=1)

    return made


NARROW = ("+backbone.changes.embed_dim=48", "+backbone.changes.num_heads=3")


PUBLISHED = {"dualprompt": (), "l2p": ("method.length=5",)}  # the glyphs' recipe has shorter prompts


@pytest.mark.parametrize(("method", "train", "test"), [("dualprompt", 2.85, 1.0), ("l2p", 3.15, 1.07)])
def test_operations_of_the_prompt_methods(large, method, train, test):
    """A training step is a query pass, a prompted pass and its way back; a test batch with known queries one pass."""
    bench = large(method, *PUBLISHED[method])
    bare = cost(bench.forward, bench.backbone)
    step = cost(bench.step_of(bench.method.phases(bench.task)[0])[1], bench.backbone)
    assert train - 0.05 < step.flops / bare.flops <= train and step.encodes == 2 * 2
    bench.method.eval()
    evaluation = bench.evaluation()
    bench.evaluate(evaluation)
    again = cost(lambda: bench.evaluate(evaluation), bench.backbone)
    assert 0.9 < again.flops / bare.flops <= test and again.encodes == 2


@pytest.mark.parametrize("method", ["dualprompt", "l2p"])
@pytest.mark.parametrize("modifier", ["none", "pgp"])
@pytest.mark.parametrize("batch", [2, 16])
def test_kernels_of_the_prompt_methods(large, method, modifier, batch):
    """Twelve blocks of any width launch as many, and so does any batch."""
    bench = large(method, f"modifier={modifier}", *NARROW, batch=batch)
    for used in bench.trainer.modifiers:
        assert used.groups(used.sites(bench.method))  # it has something to do
    (step,), (_, warm) = bench.step(), bench.eval()
    assert 400 < step["kernels"] <= 560
    assert 120 < warm["kernels"] <= 160


@pytest.mark.parametrize("method", ["dualprompt", "l2p"])
def test_a_run_asks_for_the_query_of_each_test_image_once(compose, method, monkeypatch):
    """300 test images in ten evaluations of one to ten tasks; the rest of the encodes are prompted passes and training."""
    config = compose(f"method={method}", "train.epochs=1", "train.batch_size=30")
    asked, plain = [], []
    build = experiment(config, RunDir(Path(config["outputs"]) / "run").open(config), device_of("cpu"), StopRequest())
    frozen = build.method.frozen_stage
    build.evaluation.frozen._stage = lambda images: asked.append(len(images)) or frozen(images)
    build.method.backbone.register_forward_pre_hook(
        lambda module, inputs, named: plain.append(len(inputs[0])) if not named else None, with_kwargs=True
    )
    build.fit()
    assert sum(asked) == 300
    assert sum(plain) == 900 + 300  # queries: of each training image in the one epoch, and of each test image
    assert build.encodes.total == 2 * 900 + 300 + sum(30 * tasks for tasks in range(1, 11))


# Trainable parameters, from section 14.1 of the prompt specification.
TRAINED = {
    ("l2p", "cifar100_10tasks"): 122_980,
    ("l2p", "tinyimagenet_10tasks"): 199_880,
    ("l2p", "imagenet_r_10tasks"): 391_880,
    ("dualprompt", "cifar100_10tasks"): 330_340,
    ("dualprompt", "cub200_5tasks"): 407_240,
    ("dualprompt", "imagenet_r_10tasks"): 1_098_440,
}


@pytest.mark.parametrize("reading", ["paper", "released"])
@pytest.mark.parametrize(("method", "scenario"), TRAINED)
def test_trainable_parameters_of_the_papers(method, scenario, reading):
    config = harness.compose(f"method={method}", f"scenario={scenario}", f"reading={reading}", "backbone.weights=null")
    classes = 100 if scenario.startswith("cifar100") else 200
    with torch.device("meta"):
        made = make(config["method"], "method", make(config["backbone"], "backbone"))
        last = SimpleNamespace(index=9, classes=range(classes - 10, classes), seen=range(classes), total=classes, train=None)
        made.head.grow(classes)
        (phase,) = made.phases(last)
    assert sum(p.numel() for p in phase.parameters) == TRAINED[method, scenario]


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


SHAPES = dict(
    architecture=None, image={"size": 32, "norm": "half"}, changes=harness.compose("backbone=clip_tiny")["backbone"]["changes"]
)


def test_the_plain_form_of_the_text_bench_has_the_same_losses_and_gradients():
    method = text.example(SHAPES)
    images, labels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 0, 9, 1])
    batch, phase = Batch(images, labels, labels), SimpleNamespace(task=SimpleNamespace(classes=range(10)))
    gradients = []
    for losses in (lambda: method.training_step(batch, phase), lambda: text.plain_step(method, batch, 10)):
        text.learn(method, losses)
        gradients.append((*losses().values(), method.keys.grad, method.prompts.grad))
    for own, plain in zip(*gradients, strict=True):
        assert (own - plain).norm() <= 1e-5 * plain.norm()
    features = method.frozen_stage(images).detach()
    scores = text.plain_scores(method, torch.nn.functional.normalize(features, dim=1), method.names)
    torch.testing.assert_close(method.predict_from(features, None), scores, atol=1e-5, rtol=1e-5)


def test_text_tokens_of_a_training_step(monkeypatch):
    """Each prompt set passes once with all names behind it, and each prompt alone: four images, but three sets of prompts."""
    method = text.example(SHAPES)
    method.choose = lambda features: torch.tensor([[0, 1, 2], [0, 1, 2], [1, 0, 2], [4, 5, 6]])
    passed = []
    first = method.backbone.trunk.transformer.resblocks[0].ln_1
    first.register_forward_pre_hook(lambda _, given: passed.append(given[0].shape[:2].numel()))
    phase = SimpleNamespace(task=SimpleNamespace(classes=range(10)))
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    method.training_step(Batch(images, labels, labels), phase)
    names = sum(len(method.backbone.tokenizer.encode(f"{name}.")) + 1 for name in method.names[:10])
    assert passed == [3 * (1 + 36 + names), 10 * (1 + 12 + 2)]


def test_the_command_prints_one_json_object_a_line(data_root, capsys, monkeypatch):
    words = [f"data.root={data_root}", *harness.SMALL, "method=finetune"]
    monkeypatch.setattr(text, "SHAPES", SHAPES)
    assert script.main(["--rounds", "1", "--batch", "8", *words]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["row"] for row in rows] == ["floor", "floor", "step", "eval", *["data"] * 3, "subspace", *["text"] * 3]
    for row in rows[:-4]:
        assert row["ratio_cpu"] > 0 and row["ratio_wall"] > 0 and row["images_per_second"] > 0
    assert rows[-5]["first_batch_ms"] > 0
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
