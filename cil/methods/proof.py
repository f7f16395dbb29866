"""PROOF: projections of both encoders for each task, and attention between images, texts and prototypes (Zhou et al. 2025)."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import HasText, require
from cil.common.ranges import Count, Fraction, Whole
from cil.method import Known, Losses, Method, Phase, Scenario, Task
from cil.modules.heads.cosine import exact, scores
from cil.modules.heads.frozen_images import FrozenImages
from cil.modules.rehearsal.exemplars import Exemplars, nearest_sums
from cil.modules.statistics.features import class_means
from cil.modules.text import ClassTexts

TEST_BATCH = 64  # of the released evaluation


class PROOF(FrozenImages, Method):
    """Adds one linear projection per task behind each frozen encoder, and sums all of them. The projected image is then fused
    with the texts and the mean images of all classes and with learned contexts by a layer of attention.
    """

    texts: Tensor  # (classes seen, templates, width), as the encoder gives them
    means: Tensor  # (classes seen, width): mean normalized features of images

    def __init__(
        self, backbone: nn.Module, *, class_texts: ClassTexts, contexts: Count, dropout: Fraction,
        old_texts: Literal["fixed", "moving"], average: bool, normalize: bool, memory: Whole, per_class: Whole | None,
    ) -> None:  # fmt: skip
        """Training uses the first template. `contexts`: learned tokens per task. `dropout`: in the attention and behind it.

        `old_texts`: whether text projections of earlier tasks are trained on. `average`: fused texts and prototypes are
        averaged over the images of a batch, in tests too, so that predictions depend on it. `normalize`: image features in
        tests, as in training. `memory`: total number of images. `per_class`: a fixed number per class instead.
        """
        super().__init__()
        require(backbone, HasText, "proof")
        self.backbone, self.class_texts, self.contexts_each = backbone, class_texts, contexts
        self.moving, self.average, self.normalize = old_texts == "moving", average, normalize
        self.test_batch = TEST_BATCH if average else None
        width = backbone.width
        self.of_images, self.of_texts, self.contexts = nn.ModuleList(), nn.ModuleList(), nn.ParameterList()
        self.fusion = TokenFusion(width, dropout)
        self.scale = nn.Parameter(backbone.logit_scale.detach().float().log())  # of the contrastive loss
        self.memory = Exemplars(memory, per_class, "herding")
        self.register_buffer("texts", torch.empty(0, len(class_texts.templates), width))
        self.register_buffer("means", torch.empty(0, width))

    def suits(self, scenario: Scenario) -> None:
        self.class_texts.check(self.backbone, scenario)
        self.memory.check(scenario)

    @torch.no_grad()
    def begin_task(self, task: Task) -> None:
        width = self.means.shape[1]
        for projections in (self.of_images, self.of_texts):
            projections.append(nn.Linear(width, width))
        self.contexts.append(nn.Parameter(torch.randn(self.contexts_each, width)))
        self.texts = torch.cat([self.texts, self.class_texts.each(self.backbone, task.names)])
        self.means = torch.cat([self.means, self.means.new_zeros(len(task.classes), width)])

    # --- training -----------------------------------------------------------------------------------------------------

    def phases(self, task: Task) -> list[Phase]:
        texts = self.of_texts if self.moving else self.of_texts[-1]
        parts = (self.of_images[-1], texts, self.fusion)
        learned = [self.contexts[-1], self.scale, *(one for part in parts for one in part.parameters())]
        return [Phase("train", task, self.memory.joined(task), learned)]

    @torch.no_grad()
    def begin_epoch(self, phase: Phase, epoch: int) -> None:
        """Before a task is trained, computes the mean features of its classes."""
        task = phase.task
        if not self.means[task.classes.start].any():
            features, labels = self.of_task(task)
            self.means[task.classes.start :] = class_means(F.normalize(features, dim=1), labels, task.classes)

    def losses_from(self, known: Known, phase: Phase) -> Losses:
        among = slice(phase.task.rivals.start, phase.task.rivals.stop)
        labels = known.labels - among.start
        with exact(known.frozen):
            images = F.normalize(summed(self.of_images, known.frozen), dim=1)
            texts = self.projected_texts(self.texts[among, :1])
            by_texts, by_prototypes = self.fused(images, texts, among)
            own = scores(self.scale.exp(), images, texts[labels])
            pairs = torch.arange(len(labels), device=labels.device)
            return {
                "ce": F.cross_entropy(by_texts, labels),
                "prototypes": F.cross_entropy(by_prototypes, labels),
                "contrast": (F.cross_entropy(own, pairs) + F.cross_entropy(own.T, pairs)) / 2,
            }

    def projected_texts(self, texts: Tensor) -> Tensor:
        """(classes, templates, width) → (classes, width), normalized: the mean over the templates of normalized features."""
        return F.normalize(F.normalize(summed(self.of_texts, texts), dim=2).mean(1), dim=1)

    def fused(self, images: Tensor, texts: Tensor, among: slice) -> tuple[Tensor, Tensor]:
        """Returns the products of fused images with fused texts and with fused prototypes, (batch, classes) each."""
        prototypes = F.normalize(summed(self.of_images, self.means[among]), dim=1)
        tokens = self.fusion(images, torch.cat([texts, prototypes, *self.contexts]))
        found, *others = tokens[:, 0], tokens[:, 1 : len(texts) + 1], tokens[:, len(texts) + 1 : 2 * len(texts) + 1]
        one = images.new_ones(())
        first, second = (scores(one, found, other.mean(0) if self.average else other) for other in others)
        return first, second

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        features, labels = (part.cpu() for part in self.of_task(task))
        own = [(labels == label).nonzero()[:, 0] for label in task.classes]
        order = torch.cat([rows[nearest_sums(F.normalize(features[rows], dim=1), self.memory.each(task))] for rows in own])
        self.memory.keep(self.memory.after(task, task.train.take(order)))

    # --- tests --------------------------------------------------------------------------------------------------------

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        with exact(frozen):
            found, texts = summed(self.of_images, frozen), self.projected_texts(self.texts)
            found = F.normalize(found, dim=1) if self.normalize else found
            by_texts, by_prototypes = self.fused(found, texts, slice(None))
            return found @ texts.T + by_texts + by_prototypes


class TokenFusion(nn.Module):
    """Attention with one head, then dropout, the residual and a norm."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=width**-0.5)
        nn.init.xavier_normal_(self.out.weight)

    def forward(self, images: Tensor, rest: Tensor) -> Tensor:
        """Fuse each image, (batch, width), with all of the `rest`, (tokens, width): (batch, 1 + tokens, width)."""

        def joined(images: Tensor, rest: Tensor) -> Tensor:
            return torch.cat([images[:, None], rest.expand(len(images), -1, -1)], 1)

        query, key, value = (joined(layer(images), layer(rest)) for layer in (self.query, self.key, self.value))
        chance = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(query, key, value, dropout_p=chance)
        return self.norm(F.dropout(self.out(read), self.dropout, self.training) + joined(images, rest))


def summed(layers: nn.ModuleList, features: Tensor) -> Tensor:
    """Apply linear layers and add their outputs, in one product."""
    weights, biases = (torch.stack([getattr(layer, name) for layer in layers]).sum(0) for name in ("weight", "bias"))
    return F.linear(features, weights, biases)
