"""What a student is told by a teacher's logits over its first classes."""

import torch.nn.functional as F
from torch import Tensor


def softened(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of softmaxes at a temperature, the mean over images (LwF, iCaRL of PyCIL, BiC); no factor of its square."""
    own = (logits[:, : teacher.shape[1]] / temperature).log_softmax(1)
    return -((teacher / temperature).softmax(1) * own).sum(1).mean()


def sigmoids(logits: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """Each class by itself, old ones towards the teacher's sigmoid: summed over classes, the mean over images (iCaRL)."""
    known = teacher.shape[1]
    wanted = targets.clone()
    wanted[:, :known] = teacher.sigmoid()
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1).mean()
