"""BOFA: tunes CLIP's image projection, and keeps changes in directions that old features hardly use (Li et al., AAAI 2026)."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import HasBridge, require
from cil.common.errors import UserError
from cil.common.ranges import Count, NonNegative, Share, Whole
from cil.common.switches import switches
from cil.method import Known, Losses, Method, Phase, Scenario, Task
from cil.modules.heads.cosine import exact
from cil.modules.heads.frozen_images import FrozenImages
from cil.modules.heads.linear import TaskHeads
from cil.modules.statistics.features import class_means
from cil.modules.text import ClassTexts

MOVED = 0.05  # by this share the image prototypes of training move in each step
SHARES = [step / 20 for step in range(21)]  # weights of the texts that are tried


@switches
class Reading:
    """What differs between the text and the released code:

    - `fusion`: changes of the projection are `added`; or each task yields a projection, and these are `averaged`.
    - `prototypes`: image prototypes follow the projection (`moving`), or are those of the pre-trained one (`fixed`).
    - `scale`: cosines are multiplied with CLIP's scale (`exp`), or with its logarithm (`log`).
    - `swapped`: the weight that is found for the texts is that of the images.
    - `candidates`: an image competes for `all` classes, or for one class of each `task`, chosen by a linear head of the task.
    - `discriminant`: share of the scores of a linear discriminant analysis in the prediction.
    """

    fusion: Literal["added", "averaged"]
    prototypes: Literal["moving", "fixed"]
    scale: Literal["exp", "log"]
    swapped: bool
    candidates: Literal["task", "all"]
    discriminant: Share


class BOFA(FrozenImages, Method):
    """Classifies by cosines to prototypes, which are mixed of texts and mean image features.

    The projection is trained on each task. Its change is then projected on the `rank` directions in which the features of old
    tasks are smallest, and trained on within them.
    """

    projected = False
    texts: Tensor  # (classes seen, width), normalized
    means: Tensor  # (classes seen, image width): mean features before the projection
    units: Tensor  # (classes seen, image width): mean normalized features
    prototypes: Tensor  # (classes seen, width): of the images, during training
    scatter: Tensor  # (image width, image width): second moments of old features

    def __init__(
        self, backbone: nn.Module, *, class_texts: ClassTexts, rank: Count, share: Share | None, low_epochs: Whole,
        head_epochs: Whole, aside: dict[str, NonNegative], reading: Reading,
    ) -> None:  # fmt: skip
        """`share`: weight of the images in the prototypes; null: chosen on the training images of the first task. `low_epochs`:
        training within the directions, from the second task on. `head_epochs`: epochs in which the head of the task is
        trained. `aside`: optimizer settings of these two."""
        super().__init__()
        require(backbone, HasBridge, "bofa")
        width, inner = backbone.bridge.shape
        if rank > inner:
            raise UserError(f"method.rank={rank}, but features are {inner} wide; type method.rank={inner // 2}")
        self.backbone, self.class_texts, self.reading = backbone, class_texts, reading
        self.low_epochs, self.head_epochs, self.aside, self.given = low_epochs, head_epochs, aside, share
        self.divisible = reading.prototypes == "fixed"
        self.weight = nn.Parameter(backbone.bridge.detach().float().clone())
        self.low = nn.Parameter(torch.zeros(width, rank))
        self.heads, self.epoch = TaskHeads(), 0
        self.register_buffer("fused", self.weight.detach().clone())
        self.register_buffer("basis", torch.zeros(inner, rank))
        self.register_buffer("share", torch.tensor(0.0))
        for name, size in (("texts", width), ("prototypes", width), ("means", inner), ("units", inner)):
            self.register_buffer(name, torch.empty(0, size))
        for name in ("scatter", "precision"):
            self.register_buffer(name, torch.zeros(inner, inner, dtype=torch.double))

    def suits(self, scenario: Scenario) -> None:
        self.class_texts.check(self.backbone, scenario)

    @torch.no_grad()
    def begin_task(self, task: Task) -> None:
        for name in ("prototypes", "means", "units"):
            old = getattr(self, name)
            setattr(self, name, torch.cat([old, old.new_zeros(len(task.classes), old.shape[1])]))
        self.texts = torch.cat([self.texts, self.class_texts.encoded(self.backbone, task.names)])
        if self.reading.candidates == "task":
            self.heads.add(len(self.basis), len(task.classes))
        if self.reading.fusion == "added":
            self.weight.copy_(self.fused)

    # --- training -----------------------------------------------------------------------------------------------------

    def phases(self, task: Task) -> list[Phase]:
        head = [{"params": [*self.heads[-1].parameters()], **self.aside}] if self.heads and self.head_epochs else []
        whole = Phase("projection", task, task.train, [{"params": [self.weight]}, *head])
        if not task.old or not self.low_epochs:
            return [whole]
        return [whole, Phase("low rank", task, task.train, [{"params": [self.low], **self.aside}], self.low_epochs)]

    @torch.no_grad()
    def begin_epoch(self, phase: Phase, epoch: int) -> None:
        """Before a task is trained, measures its classes and chooses the weight of the images."""
        self.epoch, task = epoch, phase.task
        if self.means[task.classes.start].any():
            return
        features, labels = self.of_task(task)
        units = F.normalize(features, dim=1)
        self.means[task.classes.start :] = class_means(features, labels, task.classes)
        self.units[task.classes.start :] = class_means(units, labels, task.classes)
        self.prototypes.copy_(self.means @ self.fixed_or(self.fused).T)
        if not task.index:
            images, found = F.normalize(self.prototypes, dim=1), F.normalize(features @ self.fused.T, dim=1)
            weight = texts_weight(found, labels, images, self.texts)
            self.share.fill_((weight if self.reading.swapped else 1 - weight) if self.given is None else self.given)
        if self.heads:
            own = self.units[task.classes.start :].double()
            weight, bias = linear(own, precision(units.double() - own[labels - task.classes.start]))
            self.heads[-1].weight.copy_(weight)
            self.heads[-1].bias.copy_(bias)

    def fixed_or(self, weight: Tensor) -> Tensor:
        """Returns the projection of the means: `weight`, or the pre-trained one."""
        return weight if self.reading.prototypes == "moving" else self.backbone.bridge.to(self.weight)

    def losses_from(self, known: Known, phase: Phase) -> Losses:
        among, first = slice(phase.task.rivals.start, phase.task.rivals.stop), phase.name == "projection"
        with exact(known.frozen):
            weight = self.weight if first else self.changed()
            if self.reading.prototypes == "moving":
                self.prototypes.lerp_(self.means @ weight.detach().T, MOVED)
            cosines = F.normalize(known.frozen @ weight.T, dim=1) @ self.hybrid(self.prototypes)[among].T
            scale = self.backbone.logit_scale.to(cosines)
            logits = cosines * (scale if self.reading.scale == "exp" else scale.log())
            losses = {"ce": F.cross_entropy(logits, known.labels - among.start)}
            if first and self.heads and self.epoch < self.head_epochs:
                found = self.heads[-1](F.normalize(known.frozen, dim=1))
                losses["head"] = F.cross_entropy(found, known.labels - phase.task.classes.start)
        return losses

    def hybrid(self, images: Tensor) -> Tensor:
        """Returns the prototypes of classes, (classes, width), not normalized."""
        return self.share * F.normalize(images, dim=1) + (1 - self.share) * self.texts

    def base(self) -> Tensor:
        """Returns the projection that a change is added to."""
        return self.fused if self.reading.fusion == "added" else self.backbone.bridge.to(self.weight)

    def changed(self) -> Tensor:
        return self.base() + self.low @ self.basis.T

    @torch.no_grad()
    def end_phase(self, phase: Phase) -> None:
        """Projects the change of the projection on the directions that old features use least."""
        if phase.name == "projection" and phase.task.old:
            self.basis.copy_(torch.linalg.eigh(self.scatter)[1][:, : self.basis.shape[1]])
            self.low.copy_((self.weight - self.base()) @ self.basis)

    @torch.no_grad()
    def end_task(self, task: Task) -> None:
        features, labels = (part.double() for part in self.of_task(task))
        added, new = self.reading.fusion == "added", self.changed() if task.old else self.weight
        self.fused.copy_(new if added else self.fused.lerp(new, 1 / (task.index + 1)))
        self.scatter += features.T @ features / (1 if added else max(1, len(features) - 1))
        if self.reading.discriminant:
            own = precision(F.normalize(features, dim=1) - self.units[labels.long()])
            means = self.units.double()
            self.precision.copy_(mixed(self.precision, own, means, len(task.classes)) if task.old else own)

    # --- tests --------------------------------------------------------------------------------------------------------

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        with exact(frozen):
            units, share = F.normalize(frozen, dim=1), self.reading.discriminant
            prototypes = self.hybrid(self.means @ self.fixed_or(self.fused).T)
            found = F.normalize(frozen @ self.fused.T, dim=1) @ prototypes.T
            if share:
                weight, bias = (part.to(found) for part in linear(self.units.double(), self.precision))
                found = share * (units @ weight.T + bias) + (1 - share) * found
            if not self.heads:
                return found
            chosen = torch.cat([logits == logits.amax(1, keepdim=True) for logits in (head(units) for head in self.heads)], 1)
            low, high = found.aminmax(dim=1, keepdim=True)
            return torch.where(chosen, found, found - (high - low) - 1)  # the others stay in their order

    def facts(self) -> dict:
        return {"share of images": round(float(self.share), 3)}


def texts_weight(features: Tensor, labels: Tensor, images: Tensor, texts: Tensor) -> float:
    """Returns the least weight of the texts in prototypes with which most normalized features have the right class."""
    right = [(features @ ((1 - weight) * images + weight * texts).T).argmax(1).eq(labels).sum() for weight in SHARES]
    return max(zip(torch.stack(right).tolist(), SHARES), key=lambda pair: pair[0])[1]


def precision(apart: Tensor) -> Tensor:
    """Return a shrunk inverse covariance, (width, width), of features minus their class means, (images, width).

    It is width · ((n − 1) C + tr(C) 1)⁻¹ for the covariance C of n images.
    """
    scatter = apart.mT @ apart
    ridge = scatter.trace() / max(1, len(apart) - 1)
    eye = torch.eye(len(scatter), dtype=scatter.dtype, device=scatter.device)
    return len(scatter) * torch.linalg.pinv(scatter + ridge * eye, hermitian=True)


def mixed(old: Tensor, new: Tensor, means: Tensor, classes: int) -> Tensor:
    """Return the precision over all classes, of which the last `classes` of `means` are new (BOFA's released code).

    Inverse matrices are averaged as if they were covariances, and the spread between the two sets of means is added.
    """
    known, seen = len(means) - classes, len(means)
    apart = means[:known].mean(0) - means[known:].mean(0)
    return (known * old + classes * new) / seen + known * classes / seen**3 * torch.outer(apart, apart)


def linear(means: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weight, (classes, width), and the bias, (classes,), of the discriminants of equally likely classes."""
    weight = means @ precision
    return weight, -(weight * means).sum(1) / 2 - torch.tensor(float(len(means))).log()
