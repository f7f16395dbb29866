"""From a node of the configuration to an object: `_target_` names the code, the other keys are its arguments."""

import importlib
import inspect
from functools import partial
from typing import Any

import torch

from cil.common import plugins
from cil.common.errors import SHOW, UserError, nearest, sentence
from cil.common.ranges import Fraction, Positive, Rate, Share, Weight, check, fits
from cil.common.switches import grouped
from cil.runs.settings import named

ALLOWED = ("cil.", "torch.optim.")
OPTIMIZERS = {  # of torch; its own annotations say less
    "lr": Rate, "momentum": Fraction, "dampening": Share, "weight_decay": Weight, "eps": Positive,
    "betas": tuple[Fraction, Fraction],
}  # fmt: skip


def make(node: dict, where: str, *given: Any, **context: Any) -> Any:
    """Call what `node["_target_"]` names. `given` and `context` come from the runner, the rest from the YAML file.

    `where` is the node's place in the configuration, for messages. With `_partial_: true` the call is left to the receiver.
    """
    if not isinstance(node, dict):
        raise UserError(f"{where}={node} has no settings; choose one of its options by name")
    arguments = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}
    for key, value in arguments.items():
        if isinstance(value, dict) and "_target_" in value:  # a node inside: a call without arguments is handed over
            arguments[key] = partial(make, value, f"{where}.{key}", **context)
    target = find(node.get("_target_"), where)
    later = node.get("_partial_", False)
    fits(f"{where}._partial_", later, bool)
    check(target, where, arguments, OPTIMIZERS if target.__module__.startswith("torch.optim.") else None)
    try:
        arguments = grouped(target, arguments)
        signature = inspect.signature(target)
        (signature.bind_partial if later else signature.bind)(*given, **context, **arguments)
    except TypeError as error:
        raise UserError(f"{where}: {error}; write it in the YAML file or on the command line") from None
    call = partial(_call, target, where, *given, **context, **arguments)
    return call if later else call()


def _call(target: Any, where: str, *given: Any, **arguments: Any) -> Any:
    """What the target refuses while it is built is told as the user's mistake, with the setting and the target's own words."""
    try:
        return target(*given, **arguments)
    except (UserError, OSError, MemoryError, torch.OutOfMemoryError):
        raise  # said elsewhere
    except Exception as error:
        raise UserError(f"{where} cannot be made of these settings ({sentence(error)}); {SHOW}") from error


def find(target: object, where: str) -> Any:
    """The class or function behind a dotted name, which must be the project's own or one of torch's optimizers."""
    path = named(target, where)
    allowed = (*ALLOWED, *(f"{name}." for name in plugins.active()))
    if not path.startswith(allowed):
        raise UserError(f"{where}._target_={path} is refused: a target starts with {' or '.join(allowed)}; for a package "
                        f"of yours type plugins=[{path.partition('.')[0]}]")  # fmt: skip
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name and not path.startswith(error.name.split(".")[0] + "."):
            raise  # a missing library inside the target, not a wrong target
        raise UserError(f"{where}._target_={path}: there is no module {error.name}") from None
    except AttributeError:
        known = [word for word in vars(importlib.import_module(module)) if not word.startswith("_")]
        raise UserError(f"{where}._target_={path}: {module} has no {name}; {nearest(name, known)}") from None
