"""A memory of exemplar images of each class."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from cil.common.errors import UserError
from cil.data.memory import Memory
from cil.method import LabelledImages, Scenario, Task

Selection = Literal["herding", "random", "first"]
IMAGES = 128  # at a time, for herding
ROUNDS = 1000  # a limit, since a round may find an image that is already chosen


class Exemplars(Memory):
    """Selects exemplars by `herding` (mean nearest to the class mean: iCaRL), at `random` (L2P's buffer), or takes the `first`
    images of the dataset (iTAML, ARI)."""

    def __init__(self, total: int, per_class: int | None, selection: str) -> None:
        super().__init__(total, per_class)
        self.selection = selection
        self.register_buffer("device_of", torch.empty(0), persistent=False)  # its device is where features are computed

    def check(self, scenario: Scenario) -> None:
        """Raise an error if the memory is smaller than the number of classes."""
        classes = max(max(len(task.dataset), len(task.remembered)) for task in scenario)
        if self.per_class is None and 0 < self.total < classes:
            raise UserError(f"method.memory={self.total} holds no image of each of {classes} classes; type "
                            f"method.memory={20 * classes}, or 0 for none")  # fmt: skip

    @torch.no_grad()
    def choose(self, task: Task, features: Callable[[Tensor], Tensor]) -> None:
        """After a task: store images of its classes, the best first, and drop the last images of old classes."""
        self.keep(self.after(task, self._in_order(task, features)))

    def _in_order(self, task: Task, features: Callable[[Tensor], Tensor]) -> LabelledImages:
        each = self.each(task)
        if self.selection == "first" or not each:
            return task.train
        if self.selection == "random":
            return task.train.take(torch.randperm(len(task.train)))
        return task.train.take(by_herding(task.train_plain, features, each, self.device_of.device))


def nearest_sums(features: Tensor, count: int) -> Tensor:
    """Return the indices of `count` images of one class, the best first (iCaRL). `features`: (images, width).

    Each step adds the image for which the mean of the chosen ones is nearest to the class mean of normalised features.
    """
    features = features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)
    mean, total = features.mean(0), torch.zeros_like(features[0])
    chosen: list[int] = []
    for rank in range(1, min(count, len(features)) + 1):
        away = (mean - (features + total) / rank).square().sum(1)
        away[chosen] = torch.inf
        chosen.append(int(away.argmin()))
        total = total + features[chosen[-1]]
    return torch.tensor(chosen, dtype=torch.long)


def herded(features: Tensor, count: int) -> Tensor:
    """Return the indices of `count` images of one class, as DyTox and its successors select them.

    Each round takes the image with the largest product with a target, then adds the class mean minus that image to the target,
    even if the image was already chosen. If images are missing after all rounds, the first unchosen ones are added.
    """
    features = features / (features.norm(dim=1, keepdim=True) + 1e-8)
    mean, target, wanted = features.mean(0), features.mean(0), min(count, len(features))
    chosen: dict[int, None] = {}
    for _ in range(ROUNDS if wanted else 0):
        best = int((features @ target).argmax())
        chosen.setdefault(best)
        if len(chosen) == wanted:
            break
        target = target + mean - features[best]
    rest = (place for place in range(len(features)) if place not in chosen)
    return torch.tensor([*chosen, *rest][:wanted], dtype=torch.long)


def by_herding(
    images: LabelledImages, features: Callable[[Tensor], Tensor], each: int, device: torch.device,
    order: Callable[[Tensor, int], Tensor] = nearest_sums,
) -> Tensor:  # fmt: skip
    """Return indices of exemplars, class by class, at most `each` per class, the best first. Images pass their transform."""
    seen = (images.batch(places, device, torch.default_generator).images for places in torch.arange(len(images)).split(IMAGES))
    found = torch.cat([features(some).flatten(1).float().cpu() for some in seen])
    classes = ((images.labels == label).nonzero()[:, 0] for label in images.labels.unique())
    return torch.cat([own[order(found[own], each)] for own in classes])
