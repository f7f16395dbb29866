"""Numbers of classes of the tasks of a scenario. Importing this does not import torch."""

import re
from collections.abc import Sequence

from cil.common.errors import UserError

IN_WORDS = re.compile(r"b(\d+)_inc([1-9]\d*)", re.IGNORECASE)  # b50_inc10: 50 classes, then 10 in each task


def whole(sizes: str | Sequence[int], count: int, name: str) -> list[int]:
    """Return the sizes if they add up to the number of classes. `b50_inc10` is a task of 50 classes and then tasks of 10.

    With `b0` the first task is as large as the others.
    """
    found = _in_words(sizes, count, name) if isinstance(sizes, str) else list(sizes)
    if sum(found) != count:
        raise UserError(f"{name}: scenario.sizes={found} is {sum(found)} classes, but there are {count}; change the last size")
    return found


def _in_words(sizes: str, count: int, name: str) -> list[int]:
    found = IN_WORDS.fullmatch(sizes)
    if not found:
        raise UserError(f"{name}: scenario.sizes={sizes} is not known; type b0_inc10, b50_inc5 or a list as [50,10,10,30]")
    first, more = map(int, found.groups())
    rest = count - first
    if rest < 1 or rest % more:
        fitting = [f"b{first}_inc{step}" for step in range(1, rest) if rest % step == 0] or [f"b0_inc{count}"]
        raise UserError(f"{name}: scenario.sizes={sizes} leaves {rest} of {count} classes for tasks of {more}, which does not "
                        f"divide; type scenario.sizes={' or '.join(fitting)}")  # fmt: skip
    return [first] * (first > 0) + [more] * (rest // more)


def split(count: int, tasks: int, first: int | None, name: str) -> list[int]:
    """Return the number of classes of each task: equal parts, or `first` followed by equal parts."""
    if tasks < 1 or tasks > count:
        raise UserError(f"{name}: {count} classes cannot make {tasks} tasks; set scenario.tasks between 1 and {count}")
    if first is not None and tasks == 1 and first != count:
        raise UserError(f"{name}: one task holds all {count} classes; set scenario.first=null")
    rest, parts = (count, tasks) if first is None else (count - first, tasks - 1)
    if first is not None and not 1 <= first <= count - parts:
        raise UserError(f"{name}: first={first} leaves too few of {count} classes for {parts} more tasks; lower scenario.first")
    if parts and rest % parts:
        fitting = [n for n in range(1, rest + 1) if rest % n == 0]
        more = 0 if first is None else 1
        what = f"{rest} classes" if first is None else f"after the first {first}, {rest} classes"
        raise UserError(f"{name}: {what} do not split into {parts} equal tasks; set scenario.first, or scenario.tasks "
                        f"to one of {', '.join(str(n + more) for n in fitting)}")  # fmt: skip
    return ([] if first is None else [first]) + [rest // parts] * parts
