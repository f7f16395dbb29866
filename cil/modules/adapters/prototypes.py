"""Class prototypes in the subspaces of several adapters; missing ones are synthesised from known ones (EASE)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def synthesised(own: Tensor, others_own: Tensor, others: Tensor) -> Tensor:
    """Return the prototype of an old class in a newer subspace, (width',): a mean of newer classes, weighted by similarity.

    `own`: (width,), its prototype in the subspace of its own task; `others_own`: (classes, width), the newer classes in that
    subspace; `others`: (classes, width'), the same newer classes in the newer subspace.
    """
    return F.cosine_similarity(others_own, own[None]).softmax(0) @ others


def scores(features: Sequence[Tensor], prototypes: Sequence[Tensor], task_of: Tensor, others: float) -> Tensor:
    """Return scores, (batch, classes): the cosine in the subspace of a class's task plus `others` · the mean over the rest.

    `features[s]`: (batch, width), `prototypes[s]`: (classes, width) in subspace s; `task_of`: (classes,).
    """
    cosines = torch.stack([F.normalize(f, dim=1) @ F.normalize(p, dim=1).T for f, p in zip(features, prototypes, strict=True)])
    own = cosines.gather(0, task_of[None, None].expand(1, *cosines.shape[1:]))[0]
    if len(cosines) == 1:
        return own
    return own + others / (len(cosines) - 1) * (cosines.sum(0) - own)
