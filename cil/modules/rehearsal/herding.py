"""Herding: orders the images of a class greedily, so that the mean of the first ones approximates the class mean."""

import torch
from torch import Tensor

ROUNDS = 1000  # a limit, since a round may find an image that is already chosen


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
