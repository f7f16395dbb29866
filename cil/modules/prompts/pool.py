"""A pool of prompts, each with a key: which of them does an image get? (L2P, CVPR 2022; DualPrompt, ECCV 2022.)"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.common.errors import UserError
from cil.common.ranges import Count
from cil.common.switches import switches


def uniform(*shape: int) -> nn.Parameter:
    """Drawn from U(−1, 1), as the released code does for prompts and keys."""
    return nn.Parameter(torch.rand(shape).mul_(2).sub_(1))


def similarity(queries: Tensor, keys: Tensor) -> Tensor:
    """(batch, width), (prompts, width) → (batch, prompts) cosines."""
    return unit(queries) @ unit(keys).T


def unit(rows: Tensor) -> Tensor:
    """Rows of length one; a shorter one than 1e-6 is not blown up further (the released code's form)."""
    return rows * rows.square().sum(1, keepdim=True).clamp_min(1e-12).rsqrt()


def match(likeness: Tensor, count: int, *, vote: bool) -> Tensor:
    """The `count` prompts of largest `likeness` (batch, prompts): (batch, count) numbers.

    With `vote` the images of a batch choose together: the prompts that most of them would have taken, (1, count). The
    lowest number wins a tie, as in the authors' JAX; in the PyTorch port that depends on the device.
    """
    chosen = likeness.detach().topk(count, 1).indices
    if not vote:
        return chosen
    votes = F.one_hot(chosen, likeness.shape[1]).sum((0, 1))
    return votes.sort(descending=True, stable=True).indices[None, :count]


def pull(likeness: Tensor, chosen: Tensor) -> Tensor:
    """The mean over images of the summed likeness of their prompts; its gradient reaches the keys of those alone."""
    return likeness.gather(1, chosen.expand(len(likeness), -1)).sum(1).mean()


@switches
class Choice:
    """How prompts are chosen where the released code differs from the text:

    - `vote_train`, `vote_test`: All images of a batch take the prompts that most of them choose. The answers in a test
      then depend on the batch, whose size is `test_batch`.
    - `future_classes`: Classes of later tasks compete in a test.
    """

    vote_train: bool
    vote_test: bool
    future_classes: bool
    test_batch: Count | None


def needs_test_batch(test_batch: int | None, **batchwise: bool) -> None:
    """Refuse `batchwise` switches that are on while no `test_batch` is said."""
    for key, on in batchwise.items():
        if on and test_batch is None:
            raise UserError(f"method.{key}=true makes answers depend on which test images are scored together; say how many, "
                            f"as in method.test_batch=16 method.{key}=true")  # fmt: skip
