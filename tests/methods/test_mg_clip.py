"""MG-CLIP against its steps written out: what the low-rank factors change, the search for epochs, the visual head."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from cil.common.errors import UserError
from cil.common.switches import grouped
from cil.contract import in_pieces
from cil.engine.build import make
from cil.methods.mg_clip import MGCLIP
from tests import harness
from tests.methods.test_contract import fitted, small, trainer_of  # noqa: F401
from tests.reference import close, fill

SHORT = ("method.epochs=1", "method.visual_epochs=1")
SEARCH = ("method.epochs=null", "method.visual_epochs=0")


def with_factors(method: MGCLIP) -> torch.nn.Module:
    """Fills the factors, and returns a copy of the network into whose own weights they are merged by a loop."""
    merged = copy.deepcopy(method.backbone)
    layers = [part for part in merged.modules() if isinstance(part, torch.nn.MultiheadAttention)]
    assert len(layers) == len(method.lora.up) == 8  # six blocks for images, two for texts
    for number, (layer, down, up) in enumerate(zip(layers, method.lora.down, method.lora.up)):
        for place in (0, 1):
            down.data[place] = fill(2 * number + place + 1, *down.shape[1:], scale=0.3).float()
            up.data[place] = fill(2 * number + place + 901, *up.shape[1:], scale=0.3).float()
            width, scale = layer.embed_dim, 1 / 8  # rows of keys come after those of queries, then those of values
            layer.in_proj_weight.data[(place + 1) * width : (place + 2) * width] += scale * up.data[place] @ down.data[place]
    return merged


def test_factors_change_keys_and_values_of_both_encoders(small, tmp_path, scenario):  # noqa: F811
    trainer = trainer_of(small("mg_clip", *SHORT), tmp_path)
    trainer.begin(scenario[0])
    method, batch = trainer.method, scenario[0].test.batch(torch.arange(4))
    names = [f"a good photo of a {name}." for name in scenario[0].names]

    def expected(network: torch.nn.Module) -> torch.Tensor:
        images = F.normalize(network(batch.images), dim=1)
        return network.logit_scale * images @ F.normalize(network.encode_text(names), dim=1).T

    with torch.no_grad():
        before = method.logits(batch.images, scenario[0].classes)
        torch.testing.assert_close(before, expected(method.backbone), atol=1e-4, rtol=1e-5)
        merged = with_factors(method)
        after = method.logits(batch.images, scenario[0].classes)
        torch.testing.assert_close(after, expected(merged), atol=1e-4, rtol=1e-5)
        assert (after - before).abs().max() > 0.01
        torch.testing.assert_close(method.logits(batch.images, scenario[0].classes, False), before)
    phase = next(method.phases(scenario[0]))
    own = method.training_step(batch, phase)["ce"]
    close(own.detach(), float(F.cross_entropy(expected(merged).detach(), batch.labels)), 1e-4)
    method.lora.requires_grad_(True)
    method.training_step(batch, phase)["ce"].backward()
    assert all(factor.grad.abs().max() > 0 for factor in method.lora.parameters())


def test_mean_logit_of_wrong_classes(small, tmp_path, scenario):  # noqa: F811
    trainer = trainer_of(small("mg_clip", *SHORT), tmp_path)
    trainer.begin(scenario[0])
    task, method = scenario[0], trainer.method
    with torch.no_grad():
        found = method.wrong(task, changed=True)
        batch, total = task.train_plain.batch(torch.arange(len(task.train_plain))), 0.0
        for row, label in zip(method.logits(batch.images, task.seen), batch.labels.tolist()):
            others = [float(value) for place, value in enumerate(row) if place != label]
            total += sum(others) / len(others)
    assert found == pytest.approx(total / len(batch.labels), rel=1e-4)


@pytest.mark.parametrize("trial", ["again", "kept"])
@pytest.mark.parametrize(("values", "found", "trained"), [
    ([10.9, 11.2], 1, 2), ([9.2, 10.0, 8.9], 2, 3), ([11.5], 1, 1), ([10.0, 10.5, 10.9, 9.1], 4, 4), ([10, 10, 10, 12], 3, 4),
])  # fmt: skip
def test_epochs_until_wrong_logits_change(small, tmp_path, monkeypatch, trial, values, found, trained):  # noqa: F811
    """Pre-trained, the mean logit is 10, and `values` after each epoch of the search; the last does not count."""

    class Watched(MGCLIP):
        asked = 0

        def wrong(self, task, changed):
            if not changed:
                return 10.0
            self.asked += 1
            return values[self.asked - 1]

    monkeypatch.setattr("cil.methods.mg_clip.MGCLIP", Watched)
    trainer = fitted(small("mg_clip", *SEARCH, "train.epochs=4", f"method.trial={trial}"), tmp_path)
    assert trainer.method.asked == len(values) and trainer.method.found() == found
    events = [event for event in harness.losses(trainer.run) if "losses" in event]
    epochs = [(event["task"], event["phase"], event["epoch"]) for event in events]
    first = [(0, "search" if trial == "again" else "train", epoch) for epoch in range(trained)]
    again = [(0, "train", epoch) for epoch in range(found)] if trial == "again" else []
    assert epochs == [*first, *again, *[(task, "train", epoch) for task in (1, 2) for epoch in range(found)]]


def test_a_trial_leaves_nothing(small, tmp_path, scenario):  # noqa: F811
    trainer = trainer_of(small("mg_clip", *SEARCH, "train.epochs=1"), tmp_path)
    trainer.begin(scenario[0])
    for step in trainer._train(scenario[0], None):
        if step.where == (0, 1, 0, 0):
            assert all(not up.any() for up in trainer.method.lora.up)
            break
        trainer.learn(step)
    else:
        raise AssertionError("the task is not trained again")


def test_a_search_is_resumed_to_the_same_bits(small, tmp_path):  # noqa: F811
    config = small("mg_clip", "method.epochs=null", "method.visual_epochs=1", "method.change=1e-5", "optim.lr=0.003")
    straight = fitted(config, tmp_path / "straight")
    assert straight.method.found() == 1 and straight.method.tried.tolist() == [1, 1]
    resumed, times = in_pieces(lambda stop: fitted(config, tmp_path / "stopped", stop), (1, 3, 2, 2, 6, 3))
    assert times == 6
    harness.assert_same_bits(straight.run, resumed.run)


@pytest.mark.parametrize("twice", [True, False])
def test_the_visual_head(small, tmp_path, scenario, twice):  # noqa: F811
    """Its rows begin as mean features, it learns its own classes without a scale, and has four fifths of the answer."""
    config = small("mg_clip", "method.epochs=1", "method.visual_lr=1e-9", f"method.twice={twice}")
    method = fitted(config, tmp_path).method
    assert len(method.visual.weight) == 6
    with torch.no_grad():
        task, merged = scenario[2], copy.deepcopy(method.backbone)
        layers = [part for part in merged.modules() if isinstance(part, torch.nn.MultiheadAttention)]
        for layer, changed in zip(layers, method.lora.weights(method.backbone).values()):
            layer.in_proj_weight.copy_(changed)
        batch = task.train_plain.batch(torch.arange(len(task.train_plain)))
        features = F.normalize(merged(batch.images), dim=1)
        for label in task.classes:
            torch.testing.assert_close(method.visual.weight[label], features[batch.labels == label].mean(0), atol=1e-4, rtol=0)
        texts = F.normalize(merged.encode_text([f"a good photo of a {name}." for name in method.names]), dim=1)
        for row, found in zip(features[:5], method.predict(batch.images[:5])):
            by_texts = [math.exp(float(merged.logit_scale * row @ text)) for text in texts]
            by_texts = [value / sum(by_texts) for value in by_texts]
            if twice:
                by_texts = [math.exp(value) / sum(math.exp(other) for other in by_texts) for value in by_texts]
            by_images = [math.exp(float(F.cosine_similarity(row, mean, dim=0))) for mean in method.visual.weight]
            wanted = [(text + 4 * image / sum(by_images)) / 5 for text, image in zip(by_texts, by_images)]
            close(found, wanted, 1e-4)
        phase = [*method.phases(task)][-1]
        known = phase.data.batch(torch.arange(3))
        cosines = torch.stack(
            [F.cosine_similarity(known.frozen, method.visual.weight[label][None]) for label in task.classes], 1
        )
        close(method.losses_from(known, phase)["ce"], float(F.cross_entropy(cosines, known.labels - 4)), 1e-5)


def test_an_encoder_without_such_attention_is_refused(compose):
    with pytest.raises(UserError, match=r"type backbone=clip_vit_b16$"):
        config = compose("method=mg_clip")
        backbone = make(config["backbone"], "backbone")
        backbone.trunk.visual.transformer.resblocks = torch.nn.ModuleList()
        MGCLIP(backbone, **grouped(MGCLIP, {key: value for key, value in config["method"].items() if key != "_target_"}))
