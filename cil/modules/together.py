"""Trains several runs together on one frozen backbone: the base class of such methods, and what it computes with."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_any, tree_leaves, tree_map, tree_map_only

from cil.method import Batch, Known, Losses, Method, Phase

Inputs = tuple[Tensor | None, ...]
Named = dict[str, Tensor]


class Together:
    """Computes the losses of several runs with `torch.vmap` over their learned parameters.

    The training step must neither draw random numbers nor change anything, and must not branch on the values of tensors (no
    `if`, no `unique`).
    """

    may_differ: tuple[str, ...] = ()  # settings in which the runs may differ: numbers that the losses are multiplied with

    def only_alone(self) -> str | None:
        """Return why a run with these settings cannot be trained together with others, or None."""
        return None

    def inputs(self, batch: Batch | Known, phase: Phase) -> Inputs:
        """Return the tensors that a training step needs of its batch, with all random numbers drawn."""
        return (batch.frozen, batch.labels) if isinstance(batch, Known) else (batch.images, batch.labels, batch.frozen)

    def losses_of(self, runs: Sequence, learned: Named, settings: Named, inputs: Inputs, phase: Phase) -> Losses:
        """Return the losses of all `runs`, (runs,) each. The first dimension of all tensors given is that of the runs.

        `learned`: the parameters that the phase trains, and all others and buffers in which the runs differ.
        """
        dims = tuple(None if value is None else 0 for value in inputs)

        def one(learned: Named, settings: Named, inputs: Inputs) -> Losses:
            known = len(inputs) == 2
            batch = Known(*inputs) if known else Batch(inputs[0], inputs[1], None, frozen=inputs[2])  # type: ignore[arg-type]
            return self.with_values(learned, settings, lambda: next(cast(Method, self).training_steps(batch, phase)))

        return torch.vmap(one, in_dims=(0, 0, dims))(learned, settings, inputs)

    def with_values(self, learned: Named, settings: Named, call: Callable, *given: Any) -> Any:
        """Return `call(*given)` with these values of parameters, buffers and settings in place of this run's own."""
        own = {name: getattr(self, name) for name in settings}
        try:
            vars(self).update(settings)
            return replaced(cast(nn.Module, self), learned, call, *given)
        finally:
            vars(self).update(own)


def joined(call: Callable[..., Tensor], *given: Any) -> Tensor:
    """Return `call(*given)`, (batch, …): a backbone takes the images of several runs, inside `torch.vmap`, as one batch.

    The tensors in `given` are (batch or 1, …). The backbone launches as many kernels as for one run, and does with each image
    what it does in a run that is alone.
    """
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
        given = tree_map_only(Tensor, lambda value: value.expand(-1, batch, *value.shape[2:]).flatten(0, 1), given)
        return joined(call, *given).unflatten(0, (runs, batch)), 0


def replaced(module: nn.Module, values: Mapping[str, Tensor], call: Callable, *given: Any) -> Any:
    """Return `call(*given)`, during which the parameters and buffers of these full names are `values`.

    `torch.func.functional_call` does the same for a forward pass, but looks through all modules for tied weights each time.
    """
    places = [place(module, name) for name in values]
    own = [of[name] for of, name in places]
    try:
        for (of, name), value in zip(places, values.values()):
            of[name] = value
        return call(*given)
    finally:
        for (of, name), value in zip(places, own):
            of[name] = value


def place(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Return the dictionary that holds a parameter or buffer of this full name, and its key there."""
    parent, _, leaf = name.rpartition(".")
    owner = module.get_submodule(parent)
    return (owner._parameters if leaf in owner._parameters else owner._buffers), leaf
