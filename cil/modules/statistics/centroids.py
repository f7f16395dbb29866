"""Predicts the task of an image: each task has several centroids, and each class is matched with one of them (MCG)."""

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor


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
