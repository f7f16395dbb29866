"""RAPF and AWPF: the losses of their specification (section 7.2), whose turn it is, what is merged, what is encoded."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cil.common.errors import UserError
from cil.common.switches import grouped
from cil.methods.rapf import RAPF
from cil.modules.adapters import fused_adapter
from cil.modules.adapters.fused_adapter import Drawn, near_pairs
from cil.modules.adapters.fusion import decomposed, discrepancy, separability, shift, trust
from cil.modules.statistics.gaussians import cholesky, statistics
from tests import harness
from tests.methods.test_contract import fitted, small, trainer_of  # noqa: F401
from tests.modules.test_adapter_parts import fill
from tests.reference import close

SETTINGS = dict(templates=["a good photo of a {}."], underscores=True, classes_drawn=2, beta=1.0, shrinkage=False, hinge=1.0,
                margin=0.1, threshold=1.62, bias=0.6)  # fmt: skip
TEXTS = F.normalize(fill((3, 4), 1, 0.23, 0.7), dim=1)
LOGITS = [[-4.701391, -6.243913, 6.379606], [3.350555, 3.235629, 4.616264], [-5.968917, -0.360136, 5.150925],
          [-6.148264, 0.461725, 2.940877], [-1.899178, 6.353364, -8.029650]]  # fmt: skip
GRADIENTS = {
    100: (40.417969, "-10.835342 -6.420549 -1.298143 1.631998 6.463077 4.494313 1.192591 -2.164790 -27.842543 -18.610396 "
          "-4.665718 7.991502 9.254704 5.151980 0.902295 -0.851862"),
    10: (4.144286, "-1.103332 -1.013375 -0.124830 0.316602 0.616599 0.495750 0.109934 -0.215966 -3.167395 -1.595006 -0.946228 "
         "0.925622 0.904541 0.618327 0.099322 -0.112393"),
}  # fmt: skip

FILE = harness.compose("backbone=clip_tiny")["backbone"]
SHIPPED = ("backbone=clip_tiny", f"backbone.weights={FILE['weights']}", f"backbone.sha256={FILE['sha256']}")


class Given(nn.Module):
    """Four numbers are a feature."""

    width = text_width = image_width = 4
    image_tower = text_parameters = embed = context = encode_contexts = room_for = property(lambda self: nn.Identity())

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.logit_scale = torch.tensor(scale)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.randn(len(texts), 4)


def toy(scale: float, **settings) -> RAPF:
    made = RAPF(Given(scale), **grouped(RAPF, SETTINGS | settings))
    made.texts = TEXTS
    made.adapter = nn.Parameter(fill((4, 4), 0.8, 0.29, 0.1))
    made.compare(torch.tensor([[0, 2], [1, 2]]))
    return made


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", GRADIENTS)
def test_losses_and_their_gradient(scale):
    made = toy(scale)
    features = torch.cat([fill((3, 4), 2, 0.31, 0.4), fill((2, 4), 2, 0.43, 1.0)])
    drawn = Drawn(features[None], torch.tensor([[2, 2, 0, 0, 1]]), fill((2, 4), 2, 0.61, 0.3)[None, :, None])
    losses = made.losses_of([made], {"adapter": made.adapter[None]}, {}, drawn, None)
    wanted, gradient = GRADIENTS[scale]
    close(losses["ce"][0], wanted, 1e-6 if scale == 10 else 2e-6)
    close(losses["hinge"][0], 0.628171, 1e-6)
    sum(losses.values()).sum().backward()
    close(made.adapter.grad.flatten(), [float(word) for word in gradient.split()], 2e-6)
    if scale == 10:
        close(made.predict_from(features, None), LOGITS, 2e-5)


def test_near_pairs_by_the_distance_of_texts():
    """0 and 1 are 1.511 apart, 0 and 2 1.618, 1 and 2 1.640."""
    assert near_pairs(TEXTS, 2, 1.62).tolist() == [[0, 2]]
    assert near_pairs(TEXTS, 1, 1.62).tolist() == [[0, 1], [0, 2]]
    assert near_pairs(TEXTS, 2, 1.7).tolist() == [[0, 2], [1, 2]]
    assert near_pairs(TEXTS, 2, 1.0).tolist() == near_pairs(TEXTS, 3, 9.0).tolist() == []


def test_old_classes_take_turns(monkeypatch):
    """Batch i has the entries (k·i + j) mod C_old of the epoch's list, whatever is drawn at a time."""
    made = toy(10)
    made.gaussians.grow(5)
    made.gaussians.means += torch.arange(5.0)[:, None]  # no spread: a feature tells its class
    made.turn = torch.tensor([3, 0, 4, 1, 2])
    made.compare(torch.tensor([[0, 2], [4, 2], [4, 1]]))
    for block in (1, 75, 16384):  # one step, a few, all
        monkeypatch.setattr(fused_adapter, "AHEAD", block)
        made._block = ()
        for step, classes in enumerate([(3, 0), (4, 1), (2, 3), (0, 4), (1, 2), (3, 0), (4, 1)]):
            labels, features, apart = made.old_of(step)
            assert tuple(labels.tolist()) == classes and features.shape == (2, 10, 4) and apart.shape == (3, 20, 4)
            assert torch.equal(features, labels[:, None, None].expand_as(features).float())
            assert torch.equal(apart[:, 0, 0], torch.tensor([0.0, 4.0, 4.0]))


def test_draws_of_a_block_are_those_of_its_epoch():
    made = toy(10)
    made.gaussians.grow(4)
    made.gaussians.factors += torch.eye(4)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.begin_epoch(type("P", (), {"task": type("T", (), {"classes": range(4, 6)})}), 0)
        drawn.append(made.old_of(3)[1])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(made.old_of(0)[1], made.old_of(2)[1])


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_task_ends_with_statistics_then_the_merge(small, tmp_path, scenario, monkeypatch):  # noqa: F811
    trainer = trainer_of(small("rapf"), tmp_path)
    method, merges = trainer.method, []
    merged = method.merged
    monkeypatch.setattr(method, "merged", lambda old, new: merges.append((old, new)) or merged(old, new))
    before = None
    for task in scenario[:2]:
        trainer.begin(task)
        assert before is None or torch.equal(method.old, before)
        for step in trainer._train(task, None):
            trainer.learn(step)
        learned = trainer.frozen.of(task.train_plain)
        for label in task.classes:
            mean, covariance = statistics(learned[task.train_plain.labels == label].double())
            close(method.gaussians.means[label], mean, 1e-5)
            close(method.gaussians.factors[label], cholesky(covariance)[0], 1e-5)
        before = method.adapter.detach().clone() if before is None else before
    ((old, new),) = merges  # nothing to merge with after the first
    assert torch.equal(old.float(), before)
    close(method.adapter, decomposed(old, new, method.bias), 1e-6)
    assert not torch.equal(method.adapter, before)


def test_only_the_towers_are_in_half_precision(small, tmp_path, monkeypatch):  # noqa: F811
    seen = []
    monkeypatch.setattr(fused_adapter, "adapted", lambda *of, now=fused_adapter.adapted: seen.append(now(*of)) or seen[-1])
    trainer = fitted(small("awpf", "method.hinge=1.0", "method.threshold=2.0", "machine.precision=bf16"), tmp_path)
    assert {one.dtype for one in seen} == {torch.float32}
    method, random = trainer.method, torch.Generator().manual_seed(0)
    plain = method.gaussians.sample(torch.tensor([0]), 3, random)
    with trainer.precision(), torch.no_grad():
        assert torch.equal(method.gaussians.sample(torch.tensor([0]), 3, random.manual_seed(0)), plain)
        assert method.embedded(plain[0]).dtype == torch.float32


@pytest.mark.parametrize(("words", "same"), [
    (("method.fusion=stacked", "method.balance=half", "method.energy=1.0"), ("method.fusion=average",)),
    (("method.fusion=stacked", "method.least=1.0", "method.energy=1.0"), ("method.fusion=new",)),
    (("method.fusion=stacked", "method.mmd_weight=0.0", "method.energy=1.0"), ("method.fusion=old",)),
    (("method.factor=direction", "method.balance=half"), ("method.fusion=average",)),
    (("method.factor=direction", "method.least=1.0"), ("method.fusion=new",)),
])  # fmt: skip
def test_the_plain_merges_are_ends_of_the_stacked_one(small, tmp_path, words, same):  # noqa: F811
    one, two = (fitted(small("awpf", *own), tmp_path / str(n)) for n, own in enumerate((words, same)))
    torch.testing.assert_close(one.method.adapter, two.method.adapter, atol=1e-5, rtol=1e-4)


def test_awpf_with_rapfs_merge_and_hinge_is_rapf(small, tmp_path):  # noqa: F811
    one = fitted(small("awpf", "method.fusion=decomposed", "method.hinge=1.0"), tmp_path / "one")
    two = fitted(small("rapf"), tmp_path / "two")
    assert torch.equal(one.method.adapter, two.method.adapter)


def test_awpf_tells_what_it_measured(small, tmp_path):  # noqa: F811
    trainer = fitted(small("awpf"), tmp_path)
    told = [event for event in harness.losses(trainer.run) if event.get("method") == "AWPF"]
    assert "weight of new" not in told[0] and {"MMD", "LDA", "weight of new", "ranks", "ridge"} <= set(told[1])
    assert all(0 < event["weight of new"] < 1 and len(event["ranks"]) == 2 for event in told[1:])


def test_measures_relative_to_their_largest(small, tmp_path):  # noqa: F811
    method = trainer_of(small("awpf", "method.scale=largest", "method.mmd_weight=0.3"), tmp_path).method
    method.tasks, labels = [range(2), range(2, 4)], torch.arange(4).repeat_interleave(method.samples)
    own = torch.eye(4)[labels]
    near, far = own + torch.randn(own.shape), own + 0.1 * torch.randn(own.shape)
    both = [(shift(discrepancy(x[labels < 2], x[labels >= 2])), separability(x, labels)) for x in (far, near)]
    assert method.weights(far[None], labels) == [1.0]  # nothing to compare with
    moved, parted = (now / largest for largest, now in zip(*both, strict=True))
    weight = 0.3 * moved / (0.3 * moved + 0.7 * (1 - parted))
    assert 0 < weight < 1 and method.weights(near[None], labels) == [pytest.approx(weight, abs=1e-6)]
    assert method.state_dict()["largest"].tolist() == [pytest.approx(both[0], abs=1e-6)]


def test_one_weight_for_each_direction(small, tmp_path):  # noqa: F811
    """Against a loop over the left singular vectors."""
    method = fitted(small("awpf", "method.factor=direction", "method.samples=5"), tmp_path).method
    old, new = fill((128, 128), 0.1, 0.37, 0.2).double(), fill((128, 128), 0.1, 0.29, 0.1).double()
    torch.manual_seed(0)
    with torch.no_grad():
        features, labels = method.pseudo_features()
    older = labels < method.tasks[-1].start
    expected = torch.zeros(128, 128, dtype=torch.double)
    for vector in torch.linalg.svd(new)[0].T:
        values = (features.double() @ vector)[:, None].float()
        weight = trust(shift(discrepancy(values[older], values[~older])), separability(values, labels), 0.5)
        row = (1 - weight) * (vector @ old) + weight * (vector @ new)
        expected += torch.outer(vector, row)
    torch.manual_seed(0)
    with torch.no_grad():
        merged = method.merged(old, new)
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-4)


def test_an_adapter_that_starts_at_the_identity_answers_as_continual_clip(small, tmp_path, scenario):  # noqa: F811
    method, plain = (trainer_of(small(*words), tmp_path / words[0]).method.eval()
                     for words in (("rapf", "method.start=identity"), ("continual_clip",)))  # fmt: skip
    plain.backbone, plain.class_texts = method.backbone, method.class_texts
    for one in (method, plain):
        one.begin_task(scenario[0])
    plain.end_task(scenario[0])
    images = scenario[0].test.batch(torch.arange(5), torch.device("cpu")).images
    torch.testing.assert_close(method.predict(images), plain.predict(images))


def test_a_task_of_one_class(compose, tmp_path):
    config = compose("method=rapf", *harness.latin(12), "scenario.tasks=12", "train.epochs=1", "method.threshold=2.0")
    trainer = fitted(config, tmp_path)
    assert trainer.matrix.learned == 12


@pytest.mark.parametrize("words", [
    "method.fusion=staked", "method.balance=ldaa", "method.mmd_weight=1.5", "method.samples=1", "method.beta=0.05",
    "method.classes_drawn=0", "method.bias=60.0", "method.threshold=-1.0",
])  # fmt: skip
def test_slips_are_named(small, tmp_path, words):  # noqa: F811
    with pytest.raises(UserError, match=words.split("=")[0].replace(".", r"\.")):
        trainer_of(small("awpf", words), tmp_path)


# --- what is encoded --------------------------------------------------------------------------------------------------


def test_each_image_is_encoded_once_ever(compose, tmp_path):
    """Ten tasks, training, statistics and all tests: as many encodes as images. Later runs of any such method make none."""
    words = (
        *harness.latin(20),
        "augment.train.crop=whole",
        "train.epochs=2",
        f"data.features={tmp_path / 'features'}",
        *SHIPPED,
    )

    def encodes(*more: str) -> int:
        return harness.execute(compose(*more, *words)).summary()["image_encodes"]

    assert encodes("method=rapf") == 9 * 20 + 3 * 20
    for more in (("method=rapf", "seed=1"), ("method=awpf", "method.mmd_weight=0.9"), ("method=class_mean",),
                 ("method=continual_clip",), ("method=rapf", "scenario.tasks=20")):  # fmt: skip
        assert encodes(*more) == 0, more
    assert encodes("method=class_mean", "augment.test.filter=bicubic", "augment.test.crop=centre") == 240  # another view
    assert encodes("method=class_mean", "machine.precision=bf16") == 240


def test_what_lies_on_the_shelf_is_what_would_be_computed(compose, tmp_path):
    words = ("method=rapf", *harness.latin(20), "augment.train.crop=whole", "train.epochs=2", *SHIPPED)
    shelf = tmp_path / "features"
    none, cold, warm = (harness.execute(compose(*words, f"outputs={tmp_path / name}", f"data.features={folder}"))
                        for name, folder in (("none", "null"), ("cold", shelf), ("warm", shelf)))  # fmt: skip
    for run in (cold, warm):
        harness.assert_same_bits(none, run)
    assert cold.summary()["identity"]["feature_blocks"] == warm.summary()["identity"]["feature_blocks"]
    for file in (tmp_path / "features").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-8])  # a torn block is never trusted
    torn = harness.execute(compose(*words, f"outputs={tmp_path / 'torn'}", f"data.features={tmp_path / 'features'}"))
    assert torn.summary()["image_encodes"] == 240
    harness.assert_same_bits(none, torn)
    made = json.loads(next((tmp_path / "features").glob("*/made.json")).read_text())
    assert {"encoder", "view", "images"} == set(made)
