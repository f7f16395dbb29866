"""Data sets learned one after another: what the second gained and what the first lost (AttriCLIP, tables 3 to 5).

FT and BT are differences between runs: the second data set after the first and alone, the first after the second and alone.
Alone means that nothing follows: the row of a run over both that stands where the first ends, or a run with `dataset.only`.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cil.common.errors import UserError
from cil.common.tables import grid, mean_and_spread
from cil.metrics import AccuracyMatrix, transfer_between_runs
from cil.report.collect import titled
from cil.runs.run_folder import address, read_matrices


class Across(NamedTuple):
    """Percent of all test images of a data set, after the last task."""

    second_alone: float
    second: float
    forward: float
    first_alone: float
    first: float
    backward: float
    union: float


DEFINITIONS = {
    "second_alone": "accuracy on the second data set, learned alone",
    "second": "accuracy on the second data set, learned after the first",
    "forward": "FT: that on the second data set after the first, minus that alone",
    "first_alone": "accuracy on the first data set, right after it",
    "first": "accuracy on the first data set, after the second",
    "backward": "BT: that on the first data set after the second, minus that right after it",
    "union": "accuracy on the images of both data sets, among the classes of both",
}


def across(outputs: Path, both: dict, second: dict, first: dict | None = None) -> dict[str, Across]:
    """From the summaries of a run over both data sets and of runs over one; by whose names compete after the last task.

    "own": those of the image's data set; "all": those of both. `first` is needed where the run has no answers in between.
    """
    runs = read_matrices(outputs / both["address"])
    early = both["config"]["scenario"]["tasks"]  # of each data set
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


def tables(groups: Sequence[list[dict]], every: Sequence[dict], outputs: Path, *, markdown: bool = False) -> str:
    """Two: among the names of the image's data set and among all. `groups`: runs over both data sets, a configuration each;
    `every`: those and their counterparts over one."""
    by_address, (head, titles) = {summary["address"]: summary for summary in every}, titled(groups)
    own, full, left_out = [], [], []
    for title, group in zip(titles, groups):
        told, runs = [], []
        for both in group:
            try:
                second = counterpart(both, "second", by_address)
                early = None if both["class_il"]["forgetting"] is not None else counterpart(both, "first", by_address)
            except UserError as missing:
                left_out.append(str(missing))
                continue
            told.append(across(outputs, both, second, early))
            runs.append(both["class_il"])
        if not told:
            continue
        numbers = {names: [mean_and_spread([getattr(one[names], field) for one in told]) for field in Across._fields]
                   for names in told[0]}  # fmt: skip
        within = [mean_and_spread([run[key] for run in runs]) for key in ("forgetting", "backward_transfer")]
        own.append([*title, *numbers["own"][:-1], str(len(told))])
        full.append([*title, *numbers["all"], *within, str(len(told))])
    if not own:
        raise UserError(left_out[0])
    columns = ["second alone", "second", "FT", "first alone", "first", "BT"]
    more = ["both", "forgetting", "BT of tasks"]
    heads = [[*head, *columns, "seeds"], [*head, *columns, *more, "seeds"]]
    parts = [grid(one, lines, markdown=markdown) for one, lines in zip(heads, (own, full))]
    texts = ["Among the names of the image's own data set:", parts[0], "Among the names of both:", parts[1]]
    return "\n\n".join([*texts, *(f"left out: {line}" for line in left_out)])


def counterpart(both: dict, only: str, by_address: dict[str, dict]) -> dict:
    """The same configuration over one data set, in which heads and old exemplars make no difference."""
    for variant in ({}, {"heads": "joint", "exemplars": "all"}):
        config = copy.deepcopy(both["config"])
        config["dataset"]["only"] = only
        config["scenario"].update(variant)
        if found := by_address.get(address(config)):
            return found
    raise UserError(f"{both['address']} has no counterpart; type its command again with dataset.only={only}")
