"""Types and ranges of settings, declared as annotations of the function that takes them, and the function that checks them.

    def __init__(self, *, temperature: Positive, share: Share | None, memory: Whole, loss: Literal["sigmoids", "softmax"]): …

A number without a range must be finite, and `true` is not accepted as a number.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cil.common.errors import UserError, nearest
from cil.common.switches import settings_of

MANY, LARGE = 2**31 - 1, 1e12  # upper limits where a setting has none of its own; they catch typing errors
PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", NoneType: "null"}


@dataclass(frozen=True)
class Range:
    """The interval from `least` to `most`; an end named in `open` is excluded."""

    least: float = -math.inf
    most: float = math.inf
    open: str = ""  # "least", "most" or "both"
    example: float | None = None  # the value that an error message proposes

    def __contains__(self, value: float) -> bool:
        above = value > self.least if self.open in ("least", "both") else value >= self.least
        return above and (value < self.most if self.open in ("most", "both") else value <= self.most)

    def words(self, value: Any = None) -> str:
        """Return the range in words. An upper end that is only a default limit is named only if `value` exceeds it."""
        least, most = (f"{end:.15g}" for end in (self.least, self.most))
        begins = f"above {least}" if self.open in ("least", "both") else f"from {least}"
        beyond = type(value) in (int, float) and value > self.most
        if self.most in (MANY, LARGE, math.inf) and not beyond:
            return begins if self.open else f"{begins} on"
        return f"{begins} to {'below ' if self.open in ('most', 'both') else ''}{most}"


Positive = Annotated[float, Range(0, LARGE, open="least", example=1.0)]
NonNegative = Annotated[float, Range(0, LARGE, example=0.0)]
Share = Annotated[float, Range(0, 1, example=0.5)]
Fraction = Annotated[float, Range(0, 1, open="most", example=0.1)]  # a dropout rate, a label smoothing, a momentum
Part = Annotated[float, Range(0, 1, open="both", example=0.1)]
Weight = Annotated[float, Range(0, 1e6, example=1.0)]  # the weight of a loss term
Rate = Annotated[float, Range(0, 1000, open="least", example=0.01)]  # a learning rate
Count = Annotated[int, Range(1, MANY, example=1)]
Whole = Annotated[int, Range(0, MANY, example=0)]
Seed = Annotated[int, Range(0, 2**32 - 1, example=0)]


def wanted(value: Any, annotation: Any) -> str | None:
    """Return in words what the annotation requires if `value` does not satisfy it, otherwise None."""
    kind, parts = get_origin(annotation), get_args(annotation)
    if kind in (UnionType, Union):
        found = [wanted(value, part) for part in parts]
        return None if None in found else " or ".join(dict.fromkeys(filter(None, found)))
    if kind is Annotated:
        if kind_wanted := wanted(value, parts[0]):
            return kind_wanted if not isinstance(parts[1], Range) else f"{kind_wanted} {parts[1].words(value)}"
        return None if not isinstance(parts[1], Range) or value in parts[1] else f"{PLAIN[parts[0]]} {parts[1].words(value)}"
    if kind is Literal:
        return None if any(type(value) is type(word) and value == word for word in parts) else " or ".join(map(str, parts))
    if kind in (list, Sequence, tuple):
        return _wanted_list(value, parts)
    if kind in (dict, Mapping):
        found = [wanted(part, parts[1]) for part in value.values()] if isinstance(value, dict) else ["a mapping"]
        return next((f"a mapping to {some}" if isinstance(value, dict) else some for some in found if some), None)
    if annotation is float and type(value) in (int, float):
        return None if math.isfinite(value) else "a finite number"
    if annotation in PLAIN:
        return None if type(value) is annotation and value != "" else PLAIN[annotation]
    if annotation is dict:
        return None if isinstance(value, dict) else "a mapping"
    return None  # values of other types are checked by the function that takes them


def _wanted_list(value: object, parts: tuple) -> str | None:
    if not isinstance(value, list | tuple):
        return "a list"
    each = parts[:1] * len(value) if len(parts) == 1 or parts[1:] == (...,) else parts
    if len(each) != len(value):
        return f"a list of {len(each)}"
    return next((f"a list, each {found}" for found in map(wanted, value, each) if found), None)


def example(annotation: object) -> object:
    """Return the example value of an annotation's range, or None if it has none."""
    for part in get_args(annotation) if get_origin(annotation) in (UnionType, Union) else (annotation,):
        if get_origin(part) is Annotated and isinstance(get_args(part)[1], Range):
            return get_args(part)[1].example
    return None


def fits(key: str, value: object, annotation: object) -> None:
    """Raise a UserError if a setting does not satisfy its annotation. In a mapping, each value is checked under its own key."""
    if isinstance(value, dict):
        kinds = (annotation, *get_args(annotation)) if get_origin(annotation) in (UnionType, Union) else (annotation,)
        for each in (get_args(kind)[1] for kind in kinds if get_origin(kind) in (dict, Mapping)):
            for name, part in value.items():
                fits(f"{key}.{name}", part, each)
    asked = wanted(value, annotation)
    if asked is None:
        return
    words = [part for some in (annotation, *get_args(annotation)) if get_origin(some) is Literal for part in get_args(some)]
    if words:
        raise UserError(f"{key}={value} is not known; {nearest(str(value), map(str, words))}")
    proposed = example(annotation)
    raise UserError(f"{key}={value} is not {asked}" + ("" if proposed is None else f"; type {key}={proposed}"))


def check(target: Callable, where: str, settings: Mapping[str, Any], declared: Mapping[str, object] | None = None) -> None:
    """Check the names, types and ranges of settings against the signature of the `target` that takes them.

    `declared`: annotations that replace those of the signature, for functions of other libraries.
    """
    parameters = settings_of(target).values()
    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    annotations = {p.name: p.annotation for p in parameters} | dict(declared or {})
    for key, value in settings.items():
        if key not in known and len(known) == len(parameters):
            raise UserError(f"{where}.{key} is not a setting of {target.__name__}; {nearest(key, known)}")
        if key in annotations:
            fits(f"{where}.{key}", value, annotations[key])
