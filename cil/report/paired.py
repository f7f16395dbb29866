"""Compares two settings over the same seeds with a paired t-test."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import ttest_rel


class Paired(NamedTuple):
    """Statistics of the differences `after − before`, seed by seed. As text: `+1.20 ± 0.31 (p 0.02)`."""

    mean: float
    spread: float  # standard deviation of the differences, n − 1
    p: float  # of a two-sided paired t-test; NaN for one seed or if all differences are equal
    runs: int

    def __str__(self) -> str:
        mean = f"{round(self.mean, 2) + 0.0:+.2f}"  # + 0.0 avoids -0.00
        text = mean if self.runs < 2 else f"{mean} ± {self.spread:.2f}"
        return text if math.isnan(self.p) else f"{text} (p {self.p:.2f})" if self.p >= 0.01 else f"{text} (p < 0.01)"


def paired(before: Sequence[float], after: Sequence[float]) -> Paired:
    """Compare two lists of results, one number per seed, in the same order of seeds."""
    differences = [two - one for one, two in zip(before, after, strict=True)]
    spread = statistics.stdev(differences) if len(differences) > 1 else math.nan
    p = float(ttest_rel(after, before).pvalue) if spread > 0 else math.nan
    return Paired(statistics.fmean(differences), spread, p, len(differences))
