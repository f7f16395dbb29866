"""Benchmark of AttriCLIP's text encoder: packed sequences and cached image features, against 77 tokens per image and class."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cil.backbones.clip import CLIP, clip
from cil.bench.harness import figures, interleaved
from cil.common.switches import grouped
from cil.data.frozen_features import Known
from cil.data.images import Batch
from cil.methods.attriclip import AttriCLIP

IMAGES, CLASSES, TESTED, ROUNDS = 4, 10, 50, 2
SETS = 2  # prompt sets chosen in a batch; few, as in a trained bank
SHAPES = dict(architecture="ViT-B-16-quickgelu", image={"size": 224, "norm": "clip"}, changes={})
SETTINGS: dict[str, Any] = dict(
    bank=10, length=12, phrase=None, top_k=3, key_loss="cosine", margin=0.0, key_weight=0.7, diversity_weight=0.3,
    cosine_choice=True, train_text=False, pristine_tests=False, sum_keys=True, ordered_pairs=False, placeholders=False,
    underscores=False, half_bank=False,
)  # fmt: skip
NAMES = ("apple", "aquarium fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle")  # CIFAR100's first


def text(rounds: int) -> Iterator[dict]:
    """Times training steps and a test batch. The weights are random, which takes the same time as trained ones."""
    method = example(SHAPES)
    images, labels = torch.randn(IMAGES, 3, *[method.backbone.image.size] * 2), torch.arange(IMAGES)
    phase: Any = SimpleNamespace(task=SimpleNamespace(classes=range(CLASSES)))
    known = Known(method.frozen_stage(images), labels)
    batch = Batch(images, labels, labels)
    plain, own = lambda: plain_step(method, batch, CLASSES), lambda: method.training_step(batch, phase)
    cached = lambda: method.losses_from(known, phase)  # noqa: E731
    pairs = [
        ("training step", lambda: learn(method, own), lambda: learn(method, plain)),
        ("training step, image features known", lambda: learn(method, cached), lambda: learn(method, plain)),
        (
            "test batch",
            lambda: afresh(method, known),
            lambda: plain_scores(method, F.normalize(known.frozen, dim=1), method.names),
        ),
    ]
    for what, call, reference in pairs:
        times = interleaved(call, reference, min(rounds, ROUNDS), torch.device("cpu"))
        classes = TESTED if what == "test batch" else CLASSES
        yield {
            "row": "text", "what": f"{what}, {IMAGES} images, {classes} classes, {SHAPES['architecture']}",
            "against": "time of a sequence of 77 tokens for each image and class, towers frozen",
            "ratio_cpu": figures(times.ratio_cpu), "ratio_wall": figures(times.ratio_wall),
            "times_faster": figures(1 / times.ratio_cpu), "seconds": figures(times.seconds), "rounds": min(rounds, ROUNDS),
        }  # fmt: skip


def example(shapes: dict) -> AttriCLIP:
    backbone = clip(weights=None, sha256=None, **shapes).eval().requires_grad_(False)
    method = AttriCLIP(backbone, **grouped(AttriCLIP, SETTINGS))
    method.names = [NAMES[n % len(NAMES)] for n in range(TESTED)]

    def choose(features: Tensor) -> Tensor:
        return torch.arange(SETTINGS["top_k"]) + torch.arange(len(features))[:, None] % SETS

    method.choose = choose  # type: ignore[method-assign]
    return method


def learn(method: AttriCLIP, losses: Callable[[], dict[str, Tensor]]) -> None:
    method.keys.grad = method.prompts.grad = None
    sum(losses().values()).backward()


@torch.inference_mode()
def afresh(method: AttriCLIP, known: Known) -> Tensor:
    method._texts.clear()
    return method.predict_from(known.frozen, lambda: known.frozen)  # the second argument is not used


# --- the plain form ---------------------------------------------------------------------------------------------------


def plain_step(method: AttriCLIP, batch: Batch, classes: int) -> dict[str, Tensor]:
    """The same losses, computed from one 77-token sequence for each image and class, and one for each prompt alone."""
    with torch.no_grad():
        features = F.normalize(method.frozen_stage(batch.images), dim=1)
    chosen = method.choose(features)
    logits = plain_scores(method, features, method.names[:classes], chosen)
    alone = F.normalize(whole(method.backbone, method.prompts, [""] * len(method.prompts)), dim=1)
    pairs = (alone @ alone.T).abs().triu(1).sum() / (len(alone) * (len(alone) - 1))
    return {
        "ce": F.cross_entropy(logits, batch.labels),
        "keys": method.key_weight * method.distance(features, chosen),
        "diversity": method.diversity_weight * pairs,
    }


def plain_scores(method: AttriCLIP, features: Tensor, names: list[str], chosen: Tensor | None = None) -> Tensor:
    with torch.set_grad_enabled(chosen is not None):
        contexts = method.prompts[method.choose(features) if chosen is None else chosen].flatten(1, 2)
        texts = whole(method.backbone, contexts.repeat_interleave(len(names), 0), names * len(features))
        texts = F.normalize(texts, dim=1).view(len(features), len(names), -1)
        return method.backbone.logit_scale * torch.einsum("bd,bkd->bk", features, texts)


def whole(backbone: CLIP, contexts: Tensor, names: list[str]) -> Tensor:
    """Text features (sequences, width) of each "context name.", padded to all positions of the text encoder."""
    trunk, length = backbone.trunk, contexts.shape[1]
    ids = backbone.tokenizer([f"{'x ' * length}{name}." for name in names])
    held = trunk.token_embedding(ids)
    held = torch.cat([held[:, :1], contexts, held[:, 1 + length :]], 1)
    x = trunk.transformer(held + trunk.positional_embedding, attn_mask=trunk.attn_mask)
    return trunk.ln_final(x)[torch.arange(len(ids)), ids.argmax(1)] @ trunk.text_projection
