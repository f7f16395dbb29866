"""Data sets learned one after another: what the second gained and what the first lost (AttriCLIP, tables 3 to 5).

FT and BT are differences between runs: the second data set after the first and alone, the first after the second and alone.
Alone means that nothing follows: the row of a run over both that stands where the first ends, or a run with `dataset.only`.
"""

from pathlib import Path
from typing import NamedTuple

from cil.metrics import AccuracyMatrix, transfer_between_runs
from cil.rundir import read_matrices


class Across(NamedTuple):
    """Percent of all test images of a data set, after the last task."""

    second_alone: float
    second: float
    forward: float  # FT
    first_alone: float
    first: float
    backward: float  # BT
    union: float  # both data sets' images among both data sets' names


def across(outputs: Path, both: dict, second: dict, first: dict | None = None) -> dict[str, Across]:
    """From the summaries of a run over both data sets and of runs over one; by whose names compete after the last task.

    "own": those of the image's data set; "all": those of both. `first` is needed where the run has no answers in between.
    """
    runs = read_matrices(outputs / both["address"])
    early = both["datasets"][0]["tasks"]
    alone = read_matrices(outputs / first["address"])["class_il"] if first else runs["class_il"]
    reference = pooled(alone, early - 1, range(early))
    other = read_matrices(outputs / second["address"])["class_il"]
    base = pooled(other, len(other.totals) - 1, range(len(other.totals)))
    last = len(runs["class_il"].totals) - 1
    union = pooled(runs["class_il"], last, range(last + 1))
    found = {}
    for names, kind in (("own", "dataset_il"), ("all", "class_il")):
        old, new = pooled(runs[kind], last, range(early)), pooled(runs[kind], last, range(early, last + 1))
        moved = transfer_between_runs(second_after_first=new, second_alone=base, first_after_second=old, first_alone=reference)
        found[names] = Across(base, new, moved.forward, reference, old, moved.backward, union)
    return found


def pooled(matrix: AccuracyMatrix, after: int, tasks: range) -> float:
    """Percent of the images of some tasks, after a task."""
    part = slice(tasks.start, tasks.stop)
    return float(100 * matrix.correct[after, part].sum() / matrix.totals[part].sum())
