"""Checks the settings that no constructor checks, before anything is loaded, and leaves out what changes nothing."""

import re
from typing import Any, Literal

from cil.common.errors import UserError, nearest
from cil.common.ranges import Count, NonNegative, Positive, Seed, fits
from cil.data.registry.sizes import IN_WORDS
from cil.runs.precision import settled

GROUPS = ("dataset", "augment", "optim", "schedule", "machine", "log", "scenario", "method", "backbone", "train", "data",
          "save")  # fmt: skip
NEEDED = (*GROUPS, "seed", "outputs", "reading", "size", "family", "modifier")
TOP = (*NEEDED, "plugins", "debug", "objective")
KEYS = {
    "train": ("epochs", "batch_size", "clip", "accumulate", "first"),
    "objective": ("on",),  # only "test"; other objectives do not belong to a run
    "train.first": ("epochs", "optim", "schedule"),
    "data": ("root", "weights", "features", "decoded"),
    "save": ("predictions",),
    "machine": ("device", "precision", "tf32", "compile", "eval_batch_size", "checkpoint_seconds", "keep_checkpoints", "stack"),
}
READINGS = ("paper", "released")
DECLARED = {
    "seed": Seed,
    "reading": Literal[READINGS],
    "outputs": str,
    "train.epochs": Count,
    "train.batch_size": Count,
    "train.clip": Positive | None,
    "train.accumulate": Count | None,
    "train.first.epochs": Count | None,
    "data.root": str,
    "data.weights": str,
    "data.features": str | None,
    "dataset.half": Literal["first", "second"],
    "dataset.names": str | None,
    "data.decoded": str | None,
    "save.predictions": bool,
    "machine.device": str,
    "machine.precision": Literal["fp32", "bf16", "auto"],
    "machine.tf32": Literal["auto", "on", "off"],
    "machine.compile": Literal["off", "on"],
    "machine.eval_batch_size": Count,
    "machine.checkpoint_seconds": NonNegative,
    "machine.keep_checkpoints": Literal["newest", "all"],
    "machine.stack": Count | None,
}
LEFT_OUT = (  # absent where they have no effect
    "machine.tf32", "machine.compile", "machine.stack", "train.first.epochs", "train.accumulate", "dataset.names",
    "dataset.half",
)  # fmt: skip

USUAL: dict[str, dict] = {  # settings of later versions, with values that are left out so that older addresses stay valid
    "scenario": {"sizes": None, "validation": 0.0},
    "cil.data.datasets.tinyimagenet.tinyimagenet": {"test_per_class": None},
    "cil.methods.rapf.RAPF": {"start": "random"},
    "cil.methods.awpf.AWPF": {"start": "random", "scale": "fixed", "factor": "matrix"},
    "cil.modifiers.pgp.PGP": {"adapter": 0.999, "lora": 0.99},
}

MEANINGLESS = (
    "debug=true: two tasks of a few images, two batches each; the numbers mean nothing, and cil tables leaves them out"
)


def leave_out_usual(config: dict) -> None:
    """Remove the settings that have their value in `USUAL`; their constructors have it as the default."""
    modifiers = config.get("modifier")
    nodes = [(config, group) for group in ("scenario", "method", "dataset")]
    nodes += [(modifiers, name) for name in modifiers] if isinstance(modifiers, dict) else []
    for place, group in nodes:
        if isinstance(node := place.get(group), dict):
            usual = usual_values(group, node).items()
            place[group] = {key: value for key, value in node.items() if (key, value) not in usual}


def usual_values(group: str, node: dict) -> dict:
    """The settings of `USUAL` that a group of the configuration may have."""
    return USUAL.get(group) or USUAL.get(str(node.get("_target_")), {})


def checked(config: dict) -> dict:
    """Return the configuration with `auto` settings resolved; raise a one-line `UserError` if a setting is wrong."""
    for key in NEEDED:
        whole = key not in GROUPS or (isinstance(config.get(key), dict) and (key != "scenario" or "name" in config[key]))
        if key in GROUPS and not isinstance(config.get(key), dict | None):
            raise UserError(f"{key}={config[key]} replaces a group of settings; type one of them, as in {key}.NAME=VALUE")
        if key not in config or not whole:  # a recipe may set parts of a scenario that was deleted
            raise UserError(f"{key} is missing; leave it as conf/config.yaml has it, or choose one of its options")
    _known("", config, TOP)
    for group, keys in KEYS.items():
        _known(f"{group}.", _value(config, group) or {}, keys)
    for key, annotation in DECLARED.items():
        value = _value(config, key)
        if value is not None or key not in LEFT_OUT:
            fits(key, value, annotation)
        if value == "":
            raise UserError(f"{key} is empty; leave it as it was or type another")
    sizes = config["scenario"].get("sizes")
    in_words = isinstance(sizes, str) and IN_WORDS.fullmatch(sizes)
    listed = isinstance(sizes, list) and sizes and all(type(size) is int and size > 0 for size in sizes)
    if sizes is not None and not (in_words or listed):
        raise UserError(f"scenario.sizes={sizes} is not a list of the numbers of classes of the tasks, each 1 or more; type "
                        "scenario.sizes=[50,10,10,30] or scenario.sizes=b50_inc10")  # fmt: skip
    name, target = str(config["scenario"].get("name")), str(config["method"].get("_target_"))
    if not re.fullmatch(r"[\w.-]*[\w-][\w.-]*", name):
        raise UserError(
            f"scenario.name={name} becomes a folder; use letters, digits, dashes, underscores, and dots between them"
        )
    if "." not in target:
        raise UserError(
            f"method._target_={target} is not a class of a method's file; choose one by name, as in method=finetune"
        )
    for group in ("backbone", "scenario", "dataset", "augment", "schedule", "log"):
        named(config[group].get("_target_"), group)
    return settled(config)


def named(target: object, where: str) -> str:
    """The dotted name of what a node of the configuration calls."""
    if not target:
        raise UserError(f"{where} has no _target_; choose one of its options by name, as in {where}=…")
    fits(f"{where}._target_", target, str)
    return str(target)


def of_reading(reading: str, paper: Any, released: Any) -> Any:
    """The value of a setting on which a paper and its released code differ, chosen by `reading`."""
    if reading not in READINGS:
        raise UserError(f"reading={reading} is not known; {nearest(str(reading), READINGS)}")
    return released if reading == "released" else paper


def of_debug(config: dict) -> dict:
    """The configuration with what `debug=true` changes; without `debug` if it is off, as before there was one.

    Such a run tries everything once on two short tasks. Its folder lies below debug/, which no table reads.
    """
    fits("debug", debug := config.get("debug", False), bool)
    if not debug:
        return {key: value for key, value in config.items() if key != "debug"}
    place, data = f"{config['outputs']}/debug", config["data"]
    features = data["features"] and f"{place}/features"
    data = data | {"decoded": f"{place}/decoded", "features": features}
    return {**config, "data": data, "machine": config["machine"] | {"checkpoint_seconds": 0}}


def _known(place: str, node: dict, keys: tuple[str, ...]) -> None:
    for key in node:
        if key not in keys:
            raise UserError(
                f"there is no setting {place}{key}; {nearest(f'{place}{key}', [f'{place}{name}' for name in keys])}"
            )


def _value(config: dict, key: str) -> Any:
    value: Any = config
    for word in key.split("."):
        value = value[word] if isinstance(value, dict) and word in value else None
    return value
