"""Base class of methods whose runs can be trained together on one frozen backbone."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from cil.method import Batch, Known, Losses, Method, Phase
from cil.modules.replaced import replaced

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
