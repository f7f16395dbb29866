"""Lets a backbone take the images of several runs as one batch, inside `torch.vmap` over the runs.

The runs join the batch dimension. The backbone therefore launches as many kernels as for one run, and does with each image what
it does in a run that is alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_any, tree_leaves, tree_map


def joined(call: Callable[..., Tensor], *given: Any) -> Tensor:
    """Return `call(*given)`, (batch, …). The tensors in `given` are (batch or 1, …)."""
    if tree_any(lambda value: isinstance(value, Tensor) and torch._C._functorch.is_batchedtensor(value), given):
        return Joined.apply(call, *given)
    return call(*given)


class Joined(torch.autograd.Function):
    """A call inside `torch.vmap`, for which the dimension of the runs is joined with that of the batch."""

    @staticmethod
    def forward(call: Callable[..., Tensor], *given: Any) -> Tensor:
        raise TypeError("this is called inside vmap only")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None: ...

    @staticmethod
    def vmap(info: Any, in_dims: tuple, call: Callable[..., Tensor], *given: Any) -> tuple[Tensor, int]:
        runs = info.batch_size

        def with_runs(value: Any, dim: int | None) -> Any:
            if not isinstance(value, Tensor):
                return value
            return value.expand(runs, *value.shape) if dim is None else value.movedim(dim, 0)

        given = tree_map(with_runs, given, in_dims[1:])
        batch = max(value.shape[1] for value in tree_leaves(given) if isinstance(value, Tensor))

        def one_batch(value: Any) -> Any:
            return value.expand(-1, batch, *value.shape[2:]).flatten(0, 1) if isinstance(value, Tensor) else value

        return joined(call, *tree_map(one_batch, given)).unflatten(0, (runs, batch)), 0
