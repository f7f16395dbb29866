"""Which images of a class stand for it best: greedy orders whose every beginning follows the mean of the class."""

import torch
from torch import Tensor

ROUNDS = 1000  # an image may be found again and again


def nearest_sums(features: Tensor, count: int) -> Tensor:
    """(images, width) of one class → the places of `count` images, the best first: iCaRL.

    Of those that are left the one is next whose mean with those before it lies nearest to the mean of all, normalised.
    """
    features = features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)
    mean, total, chosen = features.mean(0), torch.zeros_like(features[0]), []
    for rank in range(1, min(count, len(features)) + 1):
        away = (mean - (features + total) / rank).square().sum(1)
        away[chosen] = torch.inf
        chosen.append(int(away.argmin()))
        total = total + features[chosen[-1]]
    return torch.tensor(chosen, dtype=torch.long)


def herded(features: Tensor, count: int) -> Tensor:
    """The same, as DyTox and its successors compute it.

    Normalised features are chosen whose sum follows the class mean; a target moves on whether or not its image is new. Places
    that are still free after all rounds get the images that are left, in their order.
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
