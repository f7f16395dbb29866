"""PROOF against its steps written out: the summed projections, the fusion, the three losses, both readings of the answer."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cil.common.switches import grouped
from cil.data.frozen_features import Known
from cil.methods.proof import PROOF, TokenFusion
from tests.methods.test_contract import fitted, small, trainer_of  # noqa: F401
from tests.reference import close, fill

WIDTH, PAPER = 6, dict(old_texts="fixed", average=False, normalize=True)
RELEASED = dict(old_texts="moving", average=True, normalize=False)


class Given(nn.Module):
    """Images are features; a text is a fixed vector that depends on its number and its length."""

    width = text_width = WIDTH
    image_tower = text_parameters = embed = context = encode_contexts = room_for = property(lambda self: nn.Identity())

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = torch.tensor(5.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.stack([2 * fill(int(text.split()[-1]) + 10 * len(text), WIDTH) for text in texts]).float()


def task(index: int) -> SimpleNamespace:
    classes = range(2 * index, 2 * index + 2)
    return SimpleNamespace(index=index, classes=classes, seen=range(classes.stop), rivals=range(classes.stop), train=None,
                           names=[str(label) for label in classes])  # fmt: skip


def proof(tasks: int = 3, **reading) -> PROOF:
    """After some tasks, with made-up parameters and means."""
    given = dict(templates=["one {}", "another {}"], underscores=False, contexts=2, dropout=0.0, memory=10, per_class=None)
    method = PROOF(Given(), **grouped(PROOF, given | reading))
    for index in range(tasks):
        method.begin_task(task(index))
    method.double().eval()
    for number, parameter in enumerate(method.parameters()):
        parameter.data = fill(number + 1, *parameter.shape, scale=0.5)
    method.means = fill(99, *method.means.shape)
    return method


def unit(values: torch.Tensor) -> torch.Tensor:
    return values / values.norm()


def projected(layers: nn.ModuleList, feature: torch.Tensor) -> torch.Tensor:
    return sum(layer.weight @ feature + layer.bias for layer in layers).detach()


def fused(fusion: TokenFusion, tokens: list[torch.Tensor]) -> list[torch.Tensor]:
    """Token by token."""
    found = []
    for token in tokens:
        weights = [
            math.exp(float((fusion.query.weight @ token @ (fusion.key.weight @ other)).detach()) / WIDTH**0.5)
            for other in tokens
        ]
        read = sum(weight / sum(weights) * (fusion.value.weight @ other) for weight, other in zip(weights, tokens))
        out = fusion.out.weight @ read + fusion.out.bias + token
        apart = out - out.mean()
        out = apart / (apart.square().mean() + 1e-5).sqrt() * fusion.norm.weight + fusion.norm.bias
        found.append(out.detach())
    return found


def answers(method: PROOF, images: list[torch.Tensor], texts: list[torch.Tensor], average: bool) -> list[list[list[float]]]:
    """For texts and for prototypes, the products of each image with each class."""
    count = len(texts)
    prototypes = [unit(projected(method.of_images, mean)) for mean in method.means]
    contexts = [row.detach() for own in method.contexts for row in own]
    tokens = [fused(method.fusion, [image, *texts, *prototypes, *contexts]) for image in images]
    both = []
    for start in (1, 1 + count):
        mean = [sum(own[start + label] for own in tokens) / len(tokens) for label in range(count)]
        others = [mean if average else own[start : start + count] for own in tokens]
        both.append([[float(own[0] @ other) for other in each] for own, each in zip(tokens, others)])
    return both


def text_of(method: PROOF, label: int, template: str) -> torch.Tensor:
    return unit(projected(method.of_texts, method.backbone.encode_text([template.format(label)])[0].double()))


@pytest.mark.parametrize("reading", [PAPER, RELEASED])
def test_losses(reading):
    method, features, labels = proof(**reading), 3 * fill(70, 5, WIDTH), torch.tensor([4, 0, 5, 5, 2])
    losses = method.losses_from(Known(features, labels), SimpleNamespace(task=task(2)))
    images = [unit(projected(method.of_images, row)) for row in features]
    texts = [text_of(method, label, "one {}") for label in range(6)]  # the first template only
    both = torch.tensor(answers(method, images, texts, reading["average"]))
    for name, logits in zip(("ce", "prototypes"), both):
        wanted = -sum(float(row.log_softmax(0)[label]) for row, label in zip(logits, labels.tolist())) / 5
        close(losses[name].detach(), wanted, 1e-4)
    scale = math.exp(float(method.scale.detach()))
    cosines = torch.stack([torch.stack([scale * image @ texts[label] for label in labels.tolist()]) for image in images])
    ways = (cosines, cosines.T)  # images of one class count as wrong for each other
    wanted = -sum(float(row.log_softmax(0)[place]) for way in ways for place, row in enumerate(way)) / 10
    close(losses["contrast"].detach(), wanted, 1e-5)


@pytest.mark.parametrize("reading", [PAPER, RELEASED])
@torch.no_grad()
def test_answers(reading):
    method, features = proof(**reading), 3 * fill(70, 5, WIDTH)
    images = [projected(method.of_images, row) for row in features]
    images = [unit(image) for image in images] if reading["normalize"] else images
    texts = [unit(text_of(method, label, "one {}") + text_of(method, label, "another {}")) for label in range(6)]
    both = answers(method, images, texts, reading["average"])
    for place, found in enumerate(method.predict_from(features, None)):
        wanted = [float(images[place] @ texts[label]) + sum(each[place][label] for each in both) for label in range(6)]
        close(found, wanted, 1e-5)
    alone = torch.cat([method.predict_from(row[None], None) for row in features])
    assert torch.allclose(alone, method.predict_from(features, None), atol=1e-5) != reading["average"]
    assert (method.test_batch == 64) == reading["average"]


@pytest.mark.parametrize(("old", "texts"), [("fixed", [2]), ("moving", [0, 1, 2])])
def test_what_is_trained(small, tmp_path, old, texts):  # noqa: F811
    trainer = trainer_of(small("proof", f"method.old_texts={old}"), tmp_path)
    for step in trainer.steps():
        if step.where[0] == 2:
            names = {name for name, parameter in trainer.method.named_parameters() if parameter.requires_grad}
            break
        trainer.learn(step)
    learned = {"scale", "contexts.2", "of_images.2.weight", "of_images.2.bias"}
    learned |= {f"of_texts.{number}.{part}" for number in texts for part in ("weight", "bias")}
    assert {name for name in names if not name.startswith("fusion.")} == learned
    assert sum(name.startswith("fusion.") for name in names) == 7


def test_means_and_exemplars(small, tmp_path, scenario):  # noqa: F811
    """Means are those of normalized features; the mean of the exemplars is the nearest that a greedy choice finds."""
    trainer = fitted(small("proof", "method.memory=24", "augment.train.flip=0.0"), tmp_path)
    method = trainer.method
    assert trainer.encodes.total == sum(len(part) for own in scenario for part in (own.train, own.test))
    for own in scenario:
        features = trainer.frozen.of(own.train_plain)
        features = features / features.norm(dim=1, keepdim=True)
        for label in own.classes:
            rows = (own.train_plain.labels == label).nonzero()[:, 0].tolist()
            mean, chosen = features[rows].mean(0), []
            torch.testing.assert_close(method.means[label], mean)
            for _ in range(4):
                left = [row for row in rows if row not in chosen]
                chosen.append(min(left, key=lambda row: float((mean - features[[*chosen, row]].mean(0)).norm())))
            kept = method.memory.rows[method.memory.labels == label]
            assert kept.tolist() == own.train.rows[chosen].tolist()
