"""Selects prompts from a pool by the similarity of an image's query and the prompts' keys (L2P and DualPrompt, 2022)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.common.errors import UserError
from cil.common.ranges import Count
from cil.common.switches import switches
from cil.method import Batch, Task


class Queried:
    """Base class of methods whose prompts depend on a query: the class token of the backbone without prompts.

    The method has a `head`. `prompted` gives the features of images, or of their tokens, under the prompts for their queries.
    """

    backbone: nn.Module
    head: nn.Module
    prompted: Callable[[Tensor, Tensor], Tensor]

    def scored(self, task: Task) -> int:
        return len(self.head.weight)

    def queries(self, tokens: Tensor, batch: Batch) -> Tensor:
        return self.backbone(tokens) if batch.frozen is None else batch.frozen

    def frozen_stage(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        return self.head(self.prompted(frozen, images()))

    def features(self, images: Tensor) -> Tensor:
        tokens = self.backbone.tokens(images)
        return self.prompted(self.backbone(tokens), tokens)

    def predict(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def uniform(*shape: int) -> nn.Parameter:
    """Return a parameter drawn from U(−1, 1), the released code's initialisation of prompts and keys."""
    return nn.Parameter(torch.rand(shape).mul_(2).sub_(1))


def similarity(queries: Tensor, keys: Tensor) -> Tensor:
    """Return cosine similarities: (batch, width), (prompts, width) → (batch, prompts)."""
    return unit(queries) @ unit(keys).T


def unit(rows: Tensor) -> Tensor:
    """Normalise rows to length 1. Norms below 1e-6 are treated as 1e-6, as in the released code."""
    return rows * rows.square().sum(1, keepdim=True).clamp_min(1e-12).rsqrt()


def match(likeness: Tensor, count: int, *, vote: bool) -> Tensor:
    """Return the indices of the `count` prompts with the largest `likeness` (batch, prompts): (batch, count).

    With `vote`, the whole batch gets the prompts that most of its images select, (1, count). The lowest index wins a tie, as
    in the authors' JAX code; in the PyTorch port ties depend on the device.
    """
    chosen = likeness.detach().topk(count, 1).indices
    if not vote:
        return chosen
    votes = F.one_hot(chosen, likeness.shape[1]).sum((0, 1))
    return votes.sort(descending=True, stable=True).indices[None, :count]


def pull(likeness: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean over images of the summed likeness of their prompts. Only the keys of chosen prompts get a gradient."""
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
    """Raise an error if a `batchwise` setting is on and there is no `test_batch`."""
    for key, on in batchwise.items():
        if on and test_batch is None:
            raise UserError(f"method.{key}=true makes answers depend on which test images are scored together; set their "
                            f"number, as in method.test_batch=16 method.{key}=true")  # fmt: skip
