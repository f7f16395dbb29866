"""Two numbers a task that make its logits comparable with those of older ones (BiC's second stage)."""

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 100  # of L-BFGS, which needs a dozen


def corrected(logits: Tensor, pairs: Tensor, tasks: Tensor) -> Tensor:
    """`pairs`: (tasks, 2), a factor and a shift of each; `tasks`: (classes,) whose class it is."""
    return logits * pairs[tasks, 0] + pairs[tasks, 1]


def fitted(
    logits: Tensor, labels: Tensor, new: slice, *, twice: bool = False, pull: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    """(2,): the factor and the shift of the `new` classes with the least cross-entropy. It is convex in both.

    `twice`: of the softmax of a softmax, as PyCIL has it. `pull`: of the factor towards 1 and of the shift towards 0, times
    half the square: without one there is no least where the images can be told apart without a mistake.
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
