"""Groups of settings, so that a constructor with many of them can be read.

    @switches
    class Released:
        vote_test: bool
        future_classes: bool

    class MyMethod(Method):
        def __init__(self, backbone, *, pool: Count, released: Released): …

A group is a frozen dataclass. In YAML and on the command line its fields are ordinary settings: `method.pool=10
method.vote_test=true`.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, dataclass_transform


@dataclass_transform(frozen_default=True)
def switches(group: type) -> type:
    """Make a frozen dataclass of a class and mark it as a group of settings."""
    made: Any = dataclass(frozen=True)(group)
    made.is_group_of_settings = True
    return made


def settings_of(target: Callable) -> dict[str, inspect.Parameter]:
    """The settings that `target` takes, by name, with the fields of its groups in place of the groups."""
    found: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(target).parameters.items():
        group = parameter.annotation
        found.update(inspect.signature(group).parameters if is_group(group) else {name: parameter})
    return found


def grouped(target: Callable, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `target`: each of its groups is made of the settings that are its fields."""
    arguments = dict(settings)
    for name, parameter in inspect.signature(target).parameters.items():
        if is_group(parameter.annotation):
            signature = inspect.signature(parameter.annotation)
            bound = signature.bind(**{key: arguments.pop(key) for key in signature.parameters if key in arguments})
            arguments[name] = parameter.annotation(**bound.arguments)
    return arguments


def is_group(annotation: object) -> bool:
    return getattr(annotation, "is_group_of_settings", False) is True
