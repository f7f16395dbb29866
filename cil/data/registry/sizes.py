"""Numbers of classes of the tasks of a scenario. Importing this does not import torch."""

from cil.common.errors import UserError


def whole(sizes: list[int], count: int, name: str) -> list[int]:
    """Return the sizes if they add up to the number of classes."""
    if sum(sizes) != count:
        raise UserError(f"{name}: scenario.sizes={sizes} is {sum(sizes)} classes, but there are {count}; change the last size")
    return sizes


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
