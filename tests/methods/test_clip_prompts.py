"""AttriCLIP, CoOp and the CLIP of PGP in the loop: what is encoded once, what each reading trains, what leaks."""

import re

import pytest
import torch

from cil.common.errors import UserError
from cil.data.frozen_features import Known
from tests import harness
from tests.methods.test_contract import fitted, small, trainer_of  # noqa: F401

MIRROR = ("augment.train.crop=whole", "+augment.train.flip=0.5", "optim.lr=0.5")


@pytest.mark.parametrize("method", ["attriclip", "coop"])
def test_images_encoded_once_train_as_images_encoded_in_every_step(compose, method, tmp_path):
    """The same coins, so the same features: two encodes an image, its own and its mirror's, whatever the number of epochs."""
    words = (f"method={method}", "scenario.tasks=50", *MIRROR, "train.epochs=3", "train.batch_size=6")
    kept = trainer_of(compose(*words), tmp_path / "kept")
    again = trainer_of(compose(*words), tmp_path / "again")
    again.frozen = None
    for trainer in (kept, again):
        trainer.scenario.sizes = trainer.scenario.sizes[:2]
        with trainer.run:
            trainer.fit()
    for (name, one), (_, two) in zip(kept.method.named_parameters(), again.method.named_parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4, msg=name)
    for one, two in zip(harness.losses(kept.run), harness.losses(again.run), strict=True):
        assert one.get("losses", {}) == pytest.approx(two.get("losses", {}), rel=1e-4)
    images = kept.scenario.images
    assert kept.encodes.total <= 2 * len(images.train) + len(images.test)


@pytest.mark.parametrize("method", ["attriclip", "coop"])
def test_losses_of_what_is_known_are_those_of_the_images(small, method, tmp_path, scenario):  # noqa: F811
    trainer = trainer_of(small(method), tmp_path)
    trainer.begin(scenario[0])
    phase = trainer.method.phases(scenario[0])[0]
    batch = scenario[0].train.batch(torch.arange(6))
    known = Known(trainer.method.frozen_stage(batch.images).detach(), batch.labels)
    assert trainer.method.training_step(batch, phase) == trainer.method.losses_from(known, phase)


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_what_attriclip_trains(small, reading, tmp_path, scenario):  # noqa: F811
    """Paper: keys and prompts. Released: all of the text tower but its table too, from its initial weights in each task."""
    trainer = trainer_of(small("attriclip", f"reading={reading}"), tmp_path)
    initial = {name: p.detach().clone() for name, p in trainer.method.named_parameters()}
    trainer.begin(scenario[0])
    for step in trainer._train(scenario[0], None):
        trainer.learn(step)
    moved = {name for name, p in trainer.method.named_parameters() if not torch.equal(p, initial[name])}
    text = {
        name for name in initial if name.startswith("backbone.") and ".visual." not in name and "token_embedding" not in name
    }
    assert moved == {"keys", "prompts"} | (text if reading == "released" else set())
    trainer.begin(scenario[1])
    assert all(torch.equal(p, initial[name]) for name, p in trainer.method.named_parameters() if name in text)
    kind = {"paper": torch.float32, "released": torch.float16}[reading]
    assert trainer.method.keys.dtype == trainer.method.prompts.dtype == kind


def test_a_text_tower_that_learns_is_not_rounded(small, tmp_path):  # noqa: F811
    backbone = trainer_of(small("attriclip", "reading=released", "machine.precision=bf16"), tmp_path).method.backbone
    assert {p.dtype for p in backbone.text_parameters()} == {torch.float32}
    assert torch.bfloat16 in {p.dtype for p in backbone.image_parameters()}


def test_keys_that_collapse_are_told(small, tmp_path, capsys):  # noqa: F811
    """With raw products the keys that images chose first are pulled towards what images have in common."""
    words = ("method.cosine_choice=false", "method.bank=6", "method.top_k=2", "optim.lr=5")
    trainer = fitted(small("attriclip", *words), tmp_path)
    shares = [event["chosen %"] for event in harness.losses(trainer.run) if "chosen %" in event]
    assert len(shares) == 3 and all(sum(share) == pytest.approx(200, abs=3) for share in shares)
    assert sorted(shares[-1])[-2:] == [100, 100]
    assert f"chosen % {' '.join(map(str, shares[-1]))}" in capsys.readouterr().out


def test_texts_of_a_test_are_encoded_once_for_each_prompt_set_and_name(small, tmp_path, scenario, monkeypatch):  # noqa: F811
    trainer = fitted(small("attriclip"), tmp_path)
    encoded = []
    texts = type(trainer.method).texts
    monkeypatch.setattr(
        type(trainer.method),
        "texts",
        lambda self, prompts, sets, names: encoded.append((len(sets), len(names))) or texts(self, prompts, sets, names),
    )
    trainer.evaluation(scenario[:])
    assert encoded == []  # met by the evaluation after the last task
    trainer.method._texts.clear()
    trainer.evaluation(scenario[:])
    sets = {tuple(row) for task in scenario for row in trainer.method.choose(trainer.evaluation.frozen.of(task.test)).tolist()}
    assert encoded == [(1, 6)] * len(sets)


def test_a_fresh_context_in_each_task_of_coop(small, tmp_path, scenario):  # noqa: F811
    trainer = trainer_of(small("coop"), tmp_path)
    contexts = []
    for task in scenario:
        trainer.begin(task)
        contexts.append(trainer.method.context.detach().clone())
        assert [phase.name for phase in trainer.method.phases(task)] == (["train", "tune"] if task.index else ["train"])
        trainer.method.end_task(task)
    assert not torch.equal(contexts[0], contexts[1]) and not torch.equal(contexts[1], contexts[2])
    tune = trainer.method.phases(scenario[2])[1]
    assert (tune.epochs, tune.batch_size, tune.schedule(0.9, 1, 0.1)) == (3 * trainer.method.tune_epochs, 64, 1.0)


def test_the_leaky_evaluation_lets_an_image_compete_up_to_the_last_task_of_its_batch(small, tmp_path, scenario):  # noqa: F811
    """Against batches spelled out: 12 test images a task, 5 a batch."""
    trainer = fitted(small("clip_prompt", "method.leaky_batch=5"), tmp_path)
    tests = [(task.test.batch(torch.tensor([n])), task) for task in scenario for n in range(len(task.test))]
    correct = [0, 0, 0]
    for start in range(0, len(tests), 5):
        part = tests[start : start + 5]
        last = max(task.index for _, task in part)
        for batch, task in part:
            with torch.no_grad():
                scores = trainer.method.predict(batch.images)[:, : scenario[last].classes.stop]
            correct[task.index] += int(scores.argmax(1) == batch.labels)
    assert trainer.matrices["leaky_il"].correct[2].tolist() == correct
    assert (trainer.matrices["leaky_il"].correct[2] >= trainer.matrix.correct[2]).all()


def test_no_leak_is_counted_unless_it_is_asked_for(small, tmp_path):  # noqa: F811
    assert set(fitted(small("clip_prompt", "method.leaky_batch=null"), tmp_path).matrices) == {"class_il", "task_il"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["method=attriclip", "method.top_k=80"],
            "method.top_k=80 prompts of a bank of 60 cannot be chosen; type method.top_k=1 to 60",
        ),
        (["method=attriclip", "method.key_loss=mze"], "method.key_loss=mze is not known; did you mean mse?"),
        (["method=attriclip", "method.key_loss=triplet", "method.bank=2"], "type a method.bank above method.top_k"),
        (["method=attriclip", "method.phrase=''"], "method.phrase= is not a word or null"),
        (["method=coop", "method.length=-1"], "method.length=-1 is not a whole number from 1 on"),
        (["method=coop", "method.tune_epochs=-2"], "method.tune_epochs=-2 is not a whole number from 0 on"),
        (["method=coop", "method.tune_batch=0"], "method.tune_batch=0 is not a whole number from 1 on"),
        (["method=coop", "method.memory=-1"], "method.memory=-1 is not a whole number from 0 on"),
        (["method=clip_prompt", "method.image_length=-1"], "method.image_length=-1 is not a whole number from 1 on"),
        (["method=clip_prompt", "method.leaky_batch=0"], "method.leaky_batch=0 is not a whole number from 1 on"),
        (["method=clip_prompt", "method.first={lr: abc}"], "method.first.lr=abc is not a number from 0 on"),
        (["method=attriclip", "backbone=vit_tiny"], "attriclip needs a backbone that encodes class names"),
        (["method=coop", "modifier=pgp"], "pgp needs a method that has projection sites"),
    ],
)
def test_a_slip_is_told_in_one_line(small, words, line, tmp_path):  # noqa: F811
    with pytest.raises(UserError, match=re.escape(line)):
        fitted(small(words[0].split("=")[1], *words[1:]), tmp_path)


def test_one_prompt_has_no_diversity(small, tmp_path):  # noqa: F811
    trainer = fitted(small("attriclip", "method.bank=1", "method.top_k=1"), tmp_path)
    assert {event["losses"]["diversity"] for event in harness.losses(trainer.run) if "losses" in event} == {0.0}


def test_scores_are_exact_in_half_precision(small, tmp_path, scenario):  # noqa: F811
    trainer = fitted(small("continual_clip", "machine.precision=bf16"), tmp_path)
    with torch.inference_mode():
        frozen = trainer.evaluation.frozen.of(scenario[0].test)
        with trainer.precision():
            scores = trainer.method.predict_from(frozen, None)
        wanted = trainer.method.backbone.logit_scale * torch.nn.functional.normalize(frozen, dim=1) @ trainer.method.texts.T
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, wanted)
