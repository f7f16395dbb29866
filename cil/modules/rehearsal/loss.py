"""Losses of DyTox and its successors: soft targets, mixup, distillation and a divergence head."""

import torch
import torch.nn.functional as F
from torch import Tensor


def soft(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """Return smoothed one-hot targets, (batch, classes): `smoothing` is spread over all classes."""
    return F.one_hot(labels, classes).to(torch.get_default_dtype()) * (1 - smoothing) + smoothing / classes


def mixed(rows: Tensor, share: float) -> Tensor:
    """Mixup of a batch with itself in reverse order; `rows` are images or targets."""
    return share * rows + (1 - share) * rows.flip(0)


def binary(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the binary cross-entropy, averaged over images and classes."""
    return F.binary_cross_entropy_with_logits(whole(logits), targets)


def distilled(logits: Tensor, teacher: Tensor) -> Tensor:
    """Return the KL divergence from the teacher over its classes, averaged over images and those classes."""
    own, wanted = (whole(x).log_softmax(1) for x in (logits[:, : teacher.shape[1]], teacher))
    return F.kl_div(own, wanted, log_target=True, reduction="sum") / teacher.numel()


def whole(logits: Tensor) -> Tensor:
    """Cast half precision to float32: it is too coarse for small differences of probabilities."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def diverging(logits: Tensor, targets: Tensor, old: int) -> Tensor:
    """Return the loss of a divergence head, whose first output stands for all old classes together."""
    return binary(logits, torch.cat([targets[:, :old].sum(1, keepdim=True), targets[:, old:]], 1))
