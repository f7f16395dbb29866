"""Two settings over the same seeds: the mean difference, and whether chance alone would have made it."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import ttest_rel


class Paired(NamedTuple):
    """Of `after − before`, seed by seed."""

    mean: float
    spread: float  # standard deviation of the differences, n − 1
    p: float  # two-sided paired t-test; NaN for one seed or for differences that are all equal
    runs: int

    def __str__(self) -> str:
        mean = f"{round(self.mean, 2) + 0.0:+.2f}"  # no minus before a zero
        told = mean if self.runs < 2 else f"{mean} ± {self.spread:.2f}"
        return told if math.isnan(self.p) else f"{told} (p {self.p:.2f})" if self.p >= 0.01 else f"{told} (p < 0.01)"


def paired(before: Sequence[float], after: Sequence[float]) -> Paired:
    differences = [two - one for one, two in zip(before, after, strict=True)]
    spread = statistics.stdev(differences) if len(differences) > 1 else math.nan
    p = float(ttest_rel(after, before).pvalue) if spread > 0 else math.nan
    return Paired(statistics.fmean(differences), spread, p, len(differences))
