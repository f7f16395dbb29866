"""Looks up quantities of finished runs by the names that `cil.report.published` defines."""

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean, stdev

from cil.common.errors import UserError
from cil.metrics import AccuracyMatrix
from cil.report.across import Across, across, counterparts
from cil.report.published import Number
from cil.runs.run_folder import read_matrices


class Numbers:
    """Quantities of the runs below `outputs` with the summaries `every`. Matrices are read once and cached."""

    def __init__(self, outputs: Path, every: Sequence[dict]) -> None:
        self.outputs, self.by_address = outputs, {summary["address"]: summary for summary in every}
        self._matrices: dict[str, AccuracyMatrix] = {}
        self._pairs: dict[str, Across | None] = {}

    def of(self, run: dict, quantity: str) -> float | None:
        """The value of a quantity; None if it was not measured, or if a run that it needs is missing or unreadable."""
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
        """The accuracy matrix among all classes seen; None if there is no readable file."""
        address = run["address"]
        if address not in self._matrices:
            with suppress(OSError, ValueError, KeyError, IndexError, TypeError):
                self._matrices[address] = read_matrices(self.outputs / address)["class_il"]
        return self._matrices.get(address)

    def _across(self, both: dict) -> Across | None:
        if both["address"] not in self._pairs:
            self._pairs[both["address"]] = self._between(both)
        return self._pairs[both["address"]]

    def _between(self, both: dict) -> Across | None:
        if "dataset_il" not in both or both["config"]["dataset"].get("only"):
            return None  # only one dataset
        try:
            others = counterparts(both, self.by_address)
        except UserError:
            return None  # that run is not finished
        if not all(self.matrix(run) for run in (both, *others) if run):
            return None
        return across(self.outputs, both, *others)["own"]


def over(values: Sequence[float | None]) -> Number | None:
    """Mean and standard deviation over seeds; None if there are no values or one of them is None."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Number(fmean(known), stdev(known) if len(known) > 1 else None)
