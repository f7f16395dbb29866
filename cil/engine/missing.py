"""What a run lacks, told together before anything is built: weights, images, packages, classes that do not divide.

Importing this does not import torch, and `missing` imports it only if images are there that must be listed.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cil.backbones.weights import lacking
from cil.common.errors import UserError
from cil.data.datasets import places
from cil.data.registry.orders import class_order
from cil.data.registry.sizes import split, whole
from cil.runs import loggers


class Missing(UserError):
    """Several things that a run lacks; each line of the message is one of them."""


def require(config: dict) -> None:
    """Raise a `UserError` that names everything that a run lacks."""
    if lines := missing(config):
        raise Missing("\n".join(lines))


def missing(config: dict, *, files: bool = True) -> list[str]:
    """Everything that a run lacks, one line each. `files=False`: only what does not depend on the files of this machine."""
    known = places.parts(config["dataset"])
    quick = [*package(config["log"]), *((*of_weights(config), *of_names(config["dataset"])) if files else ())]
    absent = list(places.absent(known, Path(config["data"]["root"]).expanduser())) if known and files else []
    planned = list(of_scenario(config["scenario"], known or []))
    unnamed = files and any(of_names(config["dataset"]))  # then the images cannot be listed with their names
    if files and not absent and not unnamed and (quick or planned):  # the images are there, and may be others than those known
        planned = listed(config)
    return list(dict.fromkeys([*quick, *absent, *planned]))


def of_weights(config: dict) -> Iterator[str]:
    node = config["backbone"]

    def check() -> None:
        weights = node.get("weights")
        if weights == "timm":
            from cil.backbones.timm_model import address

            weights = address(node.get("name"), weights)
        if error := lacking(weights, config["data"]["weights"]):
            raise error

    small = ", or size=tiny to try everything with a small network" if config.get("debug") else ""
    yield from (f"{line}{small}" for line in told(check))


def of_names(node: dict) -> Iterator[str]:
    """A line if the file with the words for the classes is not there."""
    file = places.words(node)[1]
    if file is not None and not Path(file).expanduser().is_file():
        yield f"dataset.names={file} is not a file; type dataset.names=FILE, with one line for each class"


def package(node: dict) -> Iterator[str]:
    """A line if the logger's package is not installed."""
    kind = getattr(loggers, str(node.get("_target_")).rpartition(".")[2], None)
    if isinstance(kind, type) and issubclass(kind, loggers.Mirror) and not installed(kind.library):
        yield loggers.absent(kind.library, "is not installed")


def installed(library: str) -> bool:
    return library in sys.modules or importlib.util.find_spec(library) is not None


def of_scenario(node: dict, known: list[places.Place]) -> Iterator[str]:
    """Lines on what the number of classes alone decides: sizes of tasks, and a class order that is not of names."""
    kind, name = str(node.get("_target_")).rpartition(".")[2], node["name"]
    order = node.get("order")
    try:
        if kind == "InTurn":
            for place in known:
                yield from told(lambda: split(place.classes, node["tasks"], None, f"{name}: {place.name}"))  # noqa: B023
        elif kind == "Scenario" and len(known) == 1:
            count, sizes = known[0].classes, node.get("sizes")
            yield from told(lambda: whole(sizes, count, name) if sizes else split(count, node["tasks"], node["first"], name))
            in_file = str(order).endswith(".txt") and Path(str(order)).expanduser().is_file()
            if isinstance(order, str) and order != "seed" and not in_file:
                yield from told(lambda: class_order(order, count, known[0].name))
    except (KeyError, TypeError, ValueError):
        return  # a setting of a wrong type, which the constructor tells


def listed(config: dict) -> list[str]:
    """What the listing of the images tells. No image is decoded."""
    from cil.engine.build import checked_images

    return list(told(lambda: checked_images(config)))


def told(check: Callable[[], Any]) -> Iterator[str]:
    try:
        check()
    except UserError as error:
        yield str(error)
