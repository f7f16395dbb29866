"""Distillation losses. The teacher's logits cover the first (old) classes of the student."""

import torch.nn.functional as F
from torch import Tensor


def softened(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the mean cross-entropy of softmaxes at a temperature T, without the factor T² (LwF, PyCIL's iCaRL, BiC)."""
    own = (logits[:, : teacher.shape[1]] / temperature).log_softmax(1)
    return -((teacher / temperature).softmax(1) * own).sum(1).mean()


def sigmoids(logits: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """Return the binary cross-entropy, summed over classes; the targets of old classes are the teacher's sigmoids (iCaRL)."""
    known = teacher.shape[1]
    wanted = targets.clone()
    wanted[:, :known] = teacher.sigmoid()
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1).mean()
