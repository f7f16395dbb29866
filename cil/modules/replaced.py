"""Calls a function while other tensors stand in place of a module's parameters."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn


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
