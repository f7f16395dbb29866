"""From a plain configuration to objects: `_target_` names the code, the other keys are its arguments."""

import importlib
import inspect
from functools import partial
from typing import Any

from cil.mistakes import Mistake, nearest

ALLOWED = ("cil.", "torch.optim.")


def make(node: dict, where: str, *given: Any, **context: Any) -> Any:
    """Call what `node["_target_"]` names. `given` and `context` come from the runner, the rest from the YAML file.

    `where` is the node's place in the configuration, for messages. With `_partial_: true` the call is left to the receiver.
    """
    arguments = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}
    target = find(node.get("_target_"), where)
    if node.get("_partial_"):
        return partial(target, *given, **context, **arguments)
    check(target, where, arguments, given, context)
    return target(*given, **context, **arguments)


def find(path: str | None, where: str) -> Any:
    """The class or function behind a dotted name, which must be the project's own or one of torch's optimizers."""
    if not path:
        raise Mistake(f"{where} has no _target_; choose one of its options by name, as in {where}=…")
    if not path.startswith(ALLOWED):
        raise Mistake(f"{where}._target_={path} is refused: a target starts with {' or '.join(ALLOWED)}")
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name and not path.startswith(error.name.split(".")[0] + "."):
            raise  # a missing library inside the target, not a wrong target
        raise Mistake(f"{where}._target_={path}: there is no module {error.name}") from None
    except AttributeError:
        known = [word for word in vars(importlib.import_module(module)) if not word.startswith("_")]
        raise Mistake(f"{where}._target_={path}: {module} has no {name}; {nearest(name, known)}") from None


def check(target: Any, where: str, arguments: dict, given: tuple, context: dict) -> None:
    """Compare the keys with the signature before the call, so that a slip is named and not traced back."""
    signature = inspect.signature(target)
    known = [p.name for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    if len(known) == len(signature.parameters):
        for key in arguments:
            if key not in known:
                raise Mistake(f"{where}.{key} is not a setting of {target.__name__}; {nearest(key, known)}")
    try:
        signature.bind(*given, **context, **arguments)
    except TypeError as error:
        raise Mistake(f"{where}: {error}; write it in the YAML file or on the command line") from None
