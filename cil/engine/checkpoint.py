"""Converts a trainer (`cil.engine.trainer.Trainer`) to a checkpoint and restores it."""

from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from cil.common.errors import UserError


def of(trainer: Any) -> dict:
    """The state of a trainer. Backbone weights that were never trained are left out, since the weights file has them."""
    frozen = _backbone(trainer) - trainer.trained
    return {
        "identity": trainer.identity,
        "method": {key: value for key, value in trainer.method.state_dict().items() if key not in frozen},
        "trained": sorted(trainer.trained),
        "modifiers": [modifier.state_dict() for modifier in trainer.modifiers],
        "correct": {name: torch.from_numpy(matrix.correct) for name, matrix in trainer.matrices.items()},
        "doubts": trainer.doubts.found,
        "features": trainer.frozen.used if trainer.frozen else {},
        "encodes": trainer.encodes.before,
        "trained_parameters": trainer.trained_parameters,
        "processes": trainer.processes,
        "seconds": trainer.seconds,
        "events": trainer.run.events_size(),
    }


def into(trainer: Any, state: dict, file: Path) -> None:
    """Load `state` into a trainer whose method has begun the tasks of the checkpoint; raise a `UserError` if it cannot be."""
    remedy = f"delete {trainer.run.path} to start the run again"
    for key, value in trainer.identity.items():
        if state["identity"].get(key) != value:
            raise UserError(
                f"{file} was made with {key} {state['identity'].get(key)}, now it is {value}; restore it, or {remedy}"
            )
    try:
        missing = trainer.method.load_state_dict(state["method"], strict=False)
    except RuntimeError as error:
        raise UserError(f"{file} does not fit this code ({error}); {remedy}") from None
    trainer.trained = set(state["trained"])
    frozen, correct = _backbone(trainer) - trainer.trained, state["correct"]
    if missing.unexpected_keys or set(missing.missing_keys) - frozen or set(correct) != set(trainer.matrices):
        raise UserError(f"{file} does not fit this code; {remedy}")
    for modifier, own in zip(trainer.modifiers, state["modifiers"], strict=True):
        modifier.load_state_dict(moved(own, trainer.machine.device))
    for name, matrix in trainer.matrices.items():
        matrix.correct = correct[name].numpy()
    trainer.doubts.found = state.get("doubts", {})  # absent in checkpoints of earlier versions
    if trainer.frozen:
        trainer.frozen.used |= state.get("features", {})
    trainer.encodes.before, trainer.seconds = state["encodes"], state["seconds"]
    trainer.trained_parameters = state["trained_parameters"]
    trainer.processes = [past for past in state["processes"] if past != trainer.processes[-1]] + trainer.processes


def _backbone(trainer: Any) -> set[str]:
    return {name for name, _ in trainer.method.backbone.named_parameters(prefix="backbone")}


def moved(state: Any, device: torch.device) -> Any:
    """Move all tensors in nested dictionaries and lists to a device."""
    return tree_map_only(torch.Tensor, lambda value: value.to(device), state)
