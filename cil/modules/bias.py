"""Two numbers a task that make its logits comparable with those of older ones (BiC's second stage)."""

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 100  # of L-BFGS, which needs a dozen


def corrected(logits: Tensor, pairs: Tensor, tasks: Tensor) -> Tensor:
    """`pairs`: (tasks, 2), a factor and a shift of each; `tasks`: (classes,) whose class it is."""
    return logits * pairs[tasks, 0] + pairs[tasks, 1]


def fitted(logits: Tensor, labels: Tensor, new: slice, *, twice: bool = False, pull: float = 0.0) -> Tensor:
    """(2,): the factor and the shift of the `new` classes with the least cross-entropy. It is convex in both.

    `twice`: of the softmax of a softmax, as PyCIL has it. `pull`: times half the shift's square, as FACIL adds it.
    """
    logits, pair = logits.detach().double(), torch.tensor([1.0, 0.0], dtype=torch.double, device=logits.device)
    pair.requires_grad_(True)
    search = torch.optim.LBFGS([pair], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def loss() -> Tensor:
        search.zero_grad()
        moved = torch.cat([logits[:, : new.start], pair[0] * logits[:, new] + pair[1], logits[:, new.stop :]], 1)
        value = F.cross_entropy(moved.softmax(1) if twice else moved, labels) + pull * pair[1].square() / 2
        value.backward()
        return value

    with torch.enable_grad():
        search.step(loss)
    return pair.detach().float()
