"""The settings that no constructor checks, looked at before anything is loaded."""

import re
from typing import Any

from cil.arithmetic import settled
from cil.mistakes import Mistake, nearest

GROUPS = ("dataset", "augment", "optim", "schedule", "machine", "log", "scenario", "method", "backbone", "train", "data")
TOP = (*GROUPS, "seed", "outputs", "reading", "size", "family", "modifier")
KEYS = {
    "train": ("epochs", "batch_size", "clip", "accumulate", "first"),
    "train.first": ("epochs", "optim", "schedule"),
    "data": ("root", "weights", "features"),
    "machine": ("device", "precision", "tf32", "compile", "eval_batch_size", "checkpoint_seconds", "keep_checkpoints"),
}
READINGS = ("paper", "released")
WORDS = {
    "reading": READINGS,
    "machine.precision": ("fp32", "bf16", "auto"),
    "machine.tf32": ("auto", "on", "off"),
    "machine.compile": ("off", "on"),
    "machine.keep_checkpoints": ("newest", "all"),
}
LEFT_OUT = ("machine.tf32", "machine.compile")  # by a configuration in which they do nothing
WHOLE = {
    "seed": 0,
    "train.epochs": 1,
    "train.first.epochs": 1,
    "train.batch_size": 1,
    "train.accumulate": 1,
    "machine.eval_batch_size": 1,
    "scenario.tasks": 1,
    "scenario.first": 1,
    "method.test_batch": 1,
}
MAY_BE_NULL = ("train.clip", "train.accumulate", "train.first.epochs", "scenario.first", "method.test_batch")


def checked(config: dict) -> dict:
    """The configuration with what the machine decides in it, or one line about what is wrong with it."""
    for key in TOP:
        if key not in config or (key in GROUPS and not isinstance(config[key], dict)):
            raise Mistake(f"{key} is missing; leave it as conf/config.yaml has it, or choose one of its options")
    _known("", config, TOP)
    for group, keys in KEYS.items():
        _known(f"{group}.", _value(config, group) or {}, keys)
    for key, least in WHOLE.items():
        value = _value(config, key)
        if (value is not None or key not in MAY_BE_NULL) and (type(value) is not int or value < least):
            raise Mistake(f"{key}={value} is not a whole number from {least} on; type {key}={max(least, 1)}")
    for key, words in WORDS.items():
        if _value(config, key) not in words and not (key in LEFT_OUT and _value(config, key) is None):
            raise Mistake(f"{key}={_value(config, key)} is not known; type {' or '.join(words)}")
    clip, pause = config["train"]["clip"], config["machine"]["checkpoint_seconds"]
    if clip is not None and (not _number(clip) or clip <= 0):
        raise Mistake(f"train.clip={clip} is no norm; type train.clip=1.0, or train.clip=null to leave gradients as they are")
    if not _number(pause) or pause < 0:
        raise Mistake(f"machine.checkpoint_seconds={pause} is no time; type machine.checkpoint_seconds=60")
    for key in ("outputs", "data.root", "data.weights", "machine.device"):
        if not isinstance(_value(config, key), str) or not _value(config, key):
            raise Mistake(f"{key}={_value(config, key)} is not a name; leave it as it was or type another")
    if config["data"].get("features") is not None and not isinstance(config["data"]["features"], str):
        raise Mistake(f"data.features={config['data']['features']} is no folder; type data.features=data/features, or null")
    name, target = str(config["scenario"].get("name")), str(config["method"].get("_target_"))
    if not re.fullmatch(r"[\w.-]+", name):
        raise Mistake(f"scenario.name={name} becomes a folder; use letters, digits, dots, dashes and underscores")
    if "." not in target:
        raise Mistake(f"method._target_={target} is not a class of a method's file; choose one by name, as in method=finetune")
    return settled(config)


def of_reading(reading: str, paper: Any, released: Any) -> Any:
    """What a switch is set to: a paper's text and its released code may differ."""
    if reading not in READINGS:
        raise Mistake(f"reading={reading} is not known; {nearest(str(reading), READINGS)}")
    return released if reading == "released" else paper


def _known(place: str, node: dict, keys: tuple[str, ...]) -> None:
    for key in node:
        if key not in keys:
            raise Mistake(f"there is no setting {place}{key}; {nearest(key, keys)}")


def _value(config: dict, key: str) -> Any:
    for word in key.split("."):
        config = config[word] if isinstance(config, dict) and word in config else None
    return config


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
