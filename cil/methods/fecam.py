"""FeCAM: Mahalanobis distances to class means, each with the class's own covariance (Goswami et al., NeurIPS 2023)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.common.errors import UserError
from cil.common.ranges import NonNegative, Positive
from cil.method import Method, Phase, Task
from cil.modules.heads.cosine import exact
from cil.modules.heads.frozen_images import FrozenImages
from cil.modules.statistics.gaussians import shrunk, statistics


class FeCAM(FrozenImages, Method):
    """Scores a class by the negative Mahalanobis distance between the image's feature and the class mean. Nothing is trained.

    Covariances are shrunk and turned into correlations, so that the distances of all classes are on one scale.
    """

    divisible = True
    means: Tensor  # (classes seen, width)
    inverses: Tensor  # (classes seen, width, width): of the correlations

    def __init__(
        self, backbone: nn.Module, *, tukey: Positive | None, diagonal: NonNegative, others: NonNegative, unit: bool
    ) -> None:
        """`tukey`: power of the features, for features from 0 on; null: none. `diagonal` and `others`: shrinkage of variances
        and of covariances. `unit`: scale each feature to length 1 before means and covariances are taken, not after."""
        super().__init__()
        self.backbone, self.tukey, self.diagonal, self.others, self.unit = backbone, tukey, diagonal, others, unit
        self.register_buffer("means", torch.empty(0, backbone.width))
        self.register_buffer("inverses", torch.empty(0, backbone.width, backbone.width))

    def begin_task(self, task: Task) -> None:
        for name in ("means", "inverses"):
            old = getattr(self, name)
            setattr(self, name, torch.cat([old, old.new_zeros(len(task.classes), *old.shape[1:])]))

    def phases(self, task: Task) -> list[Phase]:
        return []

    def end_task(self, task: Task) -> None:
        features, labels = self.of_task(task)
        if self.tukey is not None and bool((features < 0).any()):
            raise UserError(f"method.tukey={self.tukey} takes powers of features, and these have values below 0; type "
                            "method.tukey=null")  # fmt: skip
        given = F.normalize(features.double(), dim=1) if self.unit else features.double()
        with exact(features):
            for label in task.classes:
                own = given[labels == label]
                mean, covariance = statistics(self.raised(own), ridge=0)
                self.means[label] = mean if self.unit else F.normalize(self.raised(own.mean(0)), dim=0)
                related = correlation(shrunk(covariance, self.diagonal, self.others))
                self.inverses[label] = torch.linalg.pinv(related, hermitian=True)

    def raised(self, features: Tensor) -> Tensor:
        return features if self.tukey is None else features**self.tukey

    def features(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        with exact(frozen):
            if self.unit:
                given = self.raised(F.normalize(frozen.float(), dim=1))
            else:
                given = F.normalize(self.raised(frozen.float()), dim=1)
            apart = given[:, None] - self.means
            return -torch.stack([((x @ inverse) * x).sum(1) for x, inverse in zip(apart.unbind(1), self.inverses)], 1)


def correlation(covariance: Tensor) -> Tensor:
    """Divide a covariance matrix by its standard deviations. A feature that does not vary is related to no other."""
    deviations = covariance.diagonal().sqrt()
    found = covariance / (deviations[:, None] * deviations).clamp_min(torch.finfo(covariance.dtype).tiny)
    return found.fill_diagonal_(1.0)
