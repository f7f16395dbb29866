"""Forward and backward transfer (FT, BT) between two datasets that are learned one after the other (AttriCLIP, tables 3 to 5).

FT compares the second dataset, learned after the first, with a run on the second alone. BT compares the first dataset, after
the second was learned, with the first alone. "Alone" is a run with `dataset.only`, or, for the first dataset, the run over both
at the point where the first dataset ends.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cil.common.errors import UserError
from cil.common.tables import fitted, mean_and_spread
from cil.metrics import AccuracyMatrix, transfer_between_runs
from cil.report.collect import titled
from cil.runs.run_folder import address, read_matrices


class Across(NamedTuple):
    """Accuracies, in percent of all test images of a dataset, after the last task."""

    second_alone: float
    second: float
    forward: float
    first_alone: float
    first: float
    backward: float
    union: float


DEFINITIONS = {
    "second_alone": "accuracy on the second dataset, learned alone",
    "second": "accuracy on the second dataset, learned after the first",
    "forward": "FT: accuracy on the second dataset learned after the first, minus its accuracy learned alone",
    "first_alone": "accuracy on the first dataset, right after it was learned",
    "first": "accuracy on the first dataset, after the second was learned",
    "backward": "BT: accuracy on the first dataset after the second, minus its accuracy right after it was learned",
    "union": "accuracy on the images of both datasets, among the classes of both",
}


def across(outputs: Path, both: dict, second: dict, first: dict | None = None) -> dict[str, Across]:
    """Transfer from the summaries of a run over both datasets, of a run over the second, and, if needed, over the first.

    Returns the accuracies among the classes of the image's own dataset ("own") and among those of both ("all"). `first` is
    needed if the run over both was not evaluated between the datasets.
    """
    runs = read_matrices(outputs / both["address"])
    early = both["config"]["scenario"]["tasks"]  # tasks of each dataset
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
    """Accuracy in percent on the images of `tasks` together, after learning task `after`."""
    part = slice(tasks.start, tasks.stop)
    return float(100 * matrix.correct[after, part].sum() / matrix.totals[part].sum())


def tables(groups: Sequence[list[dict]], every: Sequence[dict], outputs: Path, *, markdown: bool = False) -> str:
    """Two tables: accuracy among the classes of the image's own dataset, and among all classes.

    `groups`: runs over both datasets, one configuration each; `every`: these runs and their counterparts over one dataset.
    """
    by_address, (head, titles) = {summary["address"]: summary for summary in every}, titled(groups)
    own, full, left_out = [], [], []
    for title, group in zip(titles, groups):
        results, runs = [], []
        for both in group:
            try:
                results.append(across(outputs, both, *counterparts(both, by_address)))
                runs.append(both["class_il"])
            except UserError as missing:
                left_out.append(str(missing))
        if not results:
            continue
        numbers = {names: [mean_and_spread([getattr(one[names], field) for one in results]) for field in Across._fields]
                   for names in results[0]}  # fmt: skip
        within = [mean_and_spread([run[key] for run in runs]) for key in ("forgetting", "backward_transfer")]
        own.append([*title, *numbers["own"][:-1], str(len(results))])
        full.append([*title, *numbers["all"], *within, str(len(results))])
    if not own:
        raise UserError(left_out[0])
    columns = ["second alone", "second", "FT", "first alone", "first", "BT"]
    more = ["both", "forgetting", "BT of tasks"]
    heads = [[*head, *columns, "seeds"], [*head, *columns, *more, "seeds"]]
    named = ["  ".join(filter(None, line[: len(head)])) for line in own]
    parts = [fitted(one, lines, named, len(head), markdown=markdown) for one, lines in zip(heads, (own, full))]
    texts = ["Among the classes of the image's own dataset:", parts[0], "Among the classes of both datasets:", parts[1]]
    return "\n\n".join([*texts, *(f"left out: {line}" for line in left_out)])


def counterparts(both: dict, by_address: dict[str, dict]) -> tuple[dict, dict | None]:
    """The runs over the second dataset and, if it is needed, over the first."""
    second = counterpart(both, "second", by_address)
    return second, None if both["class_il"]["forgetting"] is not None else counterpart(both, "first", by_address)


def counterpart(both: dict, only: str, by_address: dict[str, dict]) -> dict:
    """The run with the same configuration over one dataset, where the settings of heads and old exemplars have no effect."""
    for variant in ({}, {"heads": "joint", "exemplars": "all"}):
        config = copy.deepcopy(both["config"])
        config["dataset"]["only"] = only
        config["scenario"].update(variant)
        if found := by_address.get(address(config)):
            return found
    raise UserError(f"{both['address']} has no counterpart over one dataset; type its command again with dataset.only={only}")
