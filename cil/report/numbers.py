"""What finished runs say of a quantity, called as `cil.report.published` calls it."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from cil.common.errors import UserError
from cil.metrics import AccuracyMatrix
from cil.report.across import Across, across, counterpart
from cil.report.published import Number
from cil.runs.run_folder import read_matrices


class Numbers:
    """Of runs below `outputs`, whose summaries are `every`; a folder is read no more often than needed."""

    def __init__(self, outputs: Path, every: Sequence[dict]) -> None:
        self.outputs, self.by_address = outputs, {summary["address"]: summary for summary in every}
        self._matrices: dict[str, AccuracyMatrix | None] = {}
        self._pairs: dict[str, Across | None] = {}

    def of(self, run: dict, quantity: str) -> float | None:
        """None where it was not measured, or where a run that it stands on is missing or cannot be read."""
        count, _, key = quantity.rpartition(".")
        if count == "across":
            pair = self._across(run)
            value = getattr(pair, key) if pair else None
        elif count == "after":
            matrix = self.matrix(run)
            value = matrix.after(int(key) - 1) if matrix and int(key) <= matrix.learned else None
        else:
            value = run.get(count or "class_il", {}).get(key)
        return float(value) if value is not None and math.isfinite(value) else None

    def matrix(self, run: dict) -> AccuracyMatrix | None:
        """Of all classes seen; None where there is no file that can be read."""
        address = run["address"]
        if address not in self._matrices:
            try:
                self._matrices[address] = read_matrices(self.outputs / address)["class_il"]
            except (OSError, ValueError, KeyError, IndexError, TypeError):
                self._matrices[address] = None
        return self._matrices[address]

    def _across(self, both: dict) -> Across | None:
        if both["address"] not in self._pairs:
            self._pairs[both["address"]] = self._between(both)
        return self._pairs[both["address"]]

    def _between(self, both: dict) -> Across | None:
        if "dataset_il" not in both or both["config"]["dataset"].get("only"):
            return None  # one data set
        try:
            second = counterpart(both, "second", self.by_address)
            first = None if both["class_il"]["forgetting"] is not None else counterpart(both, "first", self.by_address)
        except UserError:
            return None  # that run is not finished
        if not all(self.matrix(run) for run in (both, second, first) if run):
            return None
        return across(self.outputs, both, second, first)["own"]


def over(values: Sequence[float | None]) -> Number | None:
    """Mean and standard deviation over seeds; None where one of them has no number."""
    if not values or None in values:
        return None
    return Number(fmean(values), stdev(values) if len(values) > 1 else None)
