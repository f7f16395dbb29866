"""Bias correction: a factor and a shift per task that balance new and old logits (BiC's second stage)."""

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 100  # the limit for L-BFGS, which needs about twelve


def corrected(logits: Tensor, pairs: Tensor, tasks: Tensor) -> Tensor:
    """Correct logits, (batch, classes). `pairs`: (tasks, 2), factor and shift; `tasks`: (classes,), the task of each class."""
    return logits * pairs[tasks, 0] + pairs[tasks, 1]


def fitted(
    logits: Tensor, labels: Tensor, new: slice, *, twice: bool = False, pull: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    """Return the factor and shift of the `new` classes, (2,), that minimise the cross-entropy, which is convex in both.

    `twice`: apply softmax twice, as PyCIL does. `pull`: L2 penalties (½ · weight · square) that pull the factor to 1 and the
    shift to 0. Without them there is no minimum if the images can be separated without errors.
    """
    logits = logits.detach().double()
    start, pulls = logits.new_tensor([1.0, 0.0]), logits.new_tensor(pull)
    pair = start.clone().requires_grad_(True)
    search = torch.optim.LBFGS([pair], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def loss() -> Tensor:
        search.zero_grad()
        moved = torch.cat([logits[:, : new.start], pair[0] * logits[:, new] + pair[1], logits[:, new.stop :]], 1)
        value = F.cross_entropy(moved.softmax(1) if twice else moved, labels) + (pulls * (pair - start).square()).sum() / 2
        value.backward()
        return value

    with torch.enable_grad():
        search.step(loss)
    return pair.detach().float()
