"""The loss of a growing classifier with a memory: targets that may be soft, a teacher, and a head that tells new from old."""

import torch
import torch.nn.functional as F
from torch import Tensor


def soft(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """(batch, classes): `smoothing` spread over all, the rest on the label."""
    return F.one_hot(labels, classes).to(torch.get_default_dtype()) * (1 - smoothing) + smoothing / classes


def mixed(rows: Tensor, share: float) -> Tensor:
    """A batch mixed with itself in reverse order: images, or what they are to be told as."""
    return share * rows + (1 - share) * rows.flip(0)


def binary(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over images and classes."""
    return F.binary_cross_entropy_with_logits(whole(logits), targets)


def distilled(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL from the teacher's answers among its classes, the mean over images and over those classes."""
    own, wanted = (whole(x).log_softmax(1) for x in (logits[:, : teacher.shape[1]], teacher))
    return F.kl_div(own, wanted, log_target=True, reduction="sum") / teacher.numel()


def whole(logits: Tensor) -> Tensor:
    """Half precision has too few digits for small differences of probabilities."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def diverging(logits: Tensor, targets: Tensor, old: int) -> Tensor:
    """Of a head that knows the new classes and, first, all old ones as one."""
    return binary(logits, torch.cat([targets[:, :old].sum(1, keepdim=True), targets[:, old:]], 1))
