"""Which task an image is from: every task has several centroids, each of which a class is matched with (MCG)."""

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def matched(prototypes: Tensor, centroids: Tensor) -> Tensor:
    """(classes, width) and (centroids, width), all of length 1 → which centroid each class of a task has.

    The sum of cosines is the largest there is. More classes than centroids share them as evenly as they can.
    """
    rounds = -(-len(prototypes) // len(centroids))
    cost = -(prototypes @ centroids.T).repeat(1, rounds).double().cpu().numpy()
    return torch.from_numpy(linear_sum_assignment(cost)[1]) % len(centroids)


def attraction(embedded: Tensor, centroids: Tensor, own: Tensor, temperature: float) -> Tensor:
    """(batch, width) towards their `own` centroids and away from all others: the mean over the batch."""
    return F.cross_entropy(embedded @ centroids.T / temperature, own)


def weights(embedded: Tensor, centroids: Tensor, each: int, temperature: float) -> Tensor:
    """(batch, tasks): softmax of the best cosine in each task, which has `each` centroids in a row."""
    best = (embedded @ centroids.T).unflatten(1, (-1, each)).amax(2)
    return (best / temperature).softmax(1)
