"""Parts of a network that grows with its tasks: frozen feature extractors, and a gate that weights them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from cil.data.images import LabelledImages
from cil.data.memory import Kept
from cil.data.transforms.views import View
from cil.modules.rehearsal.distillation import FrozenCopy
from cil.modules.rehearsal.exemplars import IMAGES


class Extractor(FrozenCopy):
    """The frozen feature extractor of an earlier task."""

    def answer(self, images: Tensor) -> Tensor:
        return self.backbone(images)


class Gate(Kept):
    """Predicts the task of an image: a network embeds the image near one of the centroids of its task (MCG)."""

    centroid_of: Tensor  # (classes,): the centroid that each class is matched with
    matched_at: Tensor  # (2,): task and epoch of the last matching

    growing = ("centroid_of",)

    def __init__(self, body: nn.Module, width: int, each: int, temperature: float, *, learns: bool) -> None:
        """`each`: the number of centroids per task. `learns`: whether to train the body too, not only the two layers on it."""
        super().__init__()
        self.body, self.each, self.temperature, self.learns = body, each, temperature, learns
        self.head = nn.Sequential(nn.Linear(body.width, width), nn.ReLU(), nn.Linear(width, width))
        self.centroids = nn.Parameter(torch.empty(0, width))  # (tasks · each, width)
        self.register_buffer("centroid_of", torch.empty(0, dtype=torch.long))
        self.register_buffer("matched_at", torch.full((2,), -1))

    def train(self, mode: bool = True) -> "Gate":
        super().train(mode)
        self.body.train(mode and self.learns)
        return self

    def grow(self, classes: int) -> None:
        new = torch.randn(self.each, self.centroids.shape[1]).to(self.centroids)
        self.centroids = nn.Parameter(torch.cat([self.centroids.data, new]))
        self.centroid_of = torch.cat([self.centroid_of, self.centroid_of.new_zeros(classes)])

    def learning(self) -> list[nn.Parameter]:
        body = self.body.image_parameters() if self.learns else ()
        return [*body, *self.head.parameters(), self.centroids]

    def embedded(self, images: Tensor) -> Tensor:
        """Return unit-length embeddings, (batch, width)."""
        return F.normalize(self.head(self.body(images)).float(), dim=1)

    def unit(self) -> Tensor:
        return F.normalize(self.centroids, dim=1)

    def loss(self, images: Tensor, labels: Tensor, first: int) -> Tensor:
        """Return the loss that pulls images to their centroids. Only centroids of the tasks from `first` on are negatives."""
        start = first * self.each
        return attraction(self.embedded(images), self.unit()[start:], self.centroid_of[labels] - start, self.temperature)

    def forward(self, images: Tensor) -> Tensor:
        """Return the weights of the tasks, (batch, tasks); they sum to 1."""
        return weights(self.embedded(images), self.unit(), self.each, self.temperature)

    @torch.no_grad()
    def match(self, images: LabelledImages, view: View, tasks: Sequence[range], now: tuple[int, int]) -> None:
        """Match each class with a centroid of its task by the mean embedding of its images.

        `now` is the task and the epoch: the matching is done once per epoch, also if a run is resumed within it.
        """
        if self.matched_at.tolist() == list(now):
            return
        learned, device = self.training, self.centroids.device
        self.eval()
        shown = (view(images.pixels[rows], None, device) for rows in images.rows.split(IMAGES))
        found, centroids = torch.cat([self.embedded(some) for some in shown]), self.unit()
        for number, classes in enumerate(tasks):
            known = [label for label in classes if (images.labels == label).any()]
            if known:
                means = torch.stack([found[(images.labels == label).to(device)].mean(0) for label in known])
                own = slice(number * self.each, (number + 1) * self.each)
                places = matched(F.normalize(means, dim=1), centroids[own]) + own.start
                self.centroid_of[torch.tensor(known, device=device)] = places.to(device)
        self.matched_at.copy_(torch.tensor(now))
        self.train(learned)


def matched(prototypes: Tensor, centroids: Tensor) -> Tensor:
    """Return the index of the centroid of each class, (classes,), such that the sum of cosines is maximal.

    `prototypes`: (classes, width) and `centroids`: (centroids, width), all of length 1. If there are more classes than
    centroids, the classes are distributed as evenly as possible.
    """
    rounds = -(-len(prototypes) // len(centroids))
    cost = -(prototypes @ centroids.T).repeat(1, rounds).double().cpu().numpy()
    return torch.from_numpy(linear_sum_assignment(cost)[1]) % len(centroids)


def attraction(embedded: Tensor, centroids: Tensor, own: Tensor, temperature: float) -> Tensor:
    """Return the loss that pulls embeddings, (batch, width), to their `own` centroids and away from all others."""
    return F.cross_entropy(embedded @ centroids.T / temperature, own)


def weights(embedded: Tensor, centroids: Tensor, each: int, temperature: float) -> Tensor:
    """Return the softmax of the best cosine in each task, (batch, tasks). Each task has `each` consecutive centroids."""
    best = (embedded @ centroids.T).unflatten(1, (-1, each)).amax(2)
    return (best / temperature).softmax(1)
