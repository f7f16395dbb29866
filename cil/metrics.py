"""The accuracy matrix of a run and the metrics that papers compute from it. All values are percentages.

Codebases use one name for different metrics, so each docstring states the formula and its source. R[t, i] is the accuracy on
task i after learning task t, with t and i counted from 0 in code; T is the number of tasks. Unmeasured entries are NaN.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

NAN = float("nan")


class AccuracyMatrix:
    """The matrix R, stored as counts of correct answers, so that averages over tasks and over samples can both be computed."""

    def __init__(self, totals: Sequence[float]) -> None:
        """`totals`: the number of test images of each task."""
        self.totals = np.asarray(totals, dtype=float)
        self.correct = np.full((len(self.totals), len(self.totals)), NAN)

    @classmethod
    def of_percents(cls, rows: Sequence[Sequence[float]], totals: Sequence[float] | None = None) -> "AccuracyMatrix":
        """Build the matrix from rows of percentages (a triangle). All tasks weigh the same unless `totals` is given."""
        matrix = cls(totals if totals is not None else [100.0] * len(rows[-1]))
        for task, row in enumerate(rows):
            matrix.set_row(task, [percent / 100 * total for percent, total in zip(row, matrix.totals, strict=False)])
        return matrix

    def set_row(self, task: int, correct: Sequence[float]) -> None:
        """Store the numbers of correct answers on tasks 0…len(correct)−1 after learning `task`."""
        self.correct[task, : len(correct)] = correct

    @property
    def percent(self) -> np.ndarray:
        return 100 * self.correct / self.totals

    @property
    def learned(self) -> int:
        """Number of tasks learned when the last row was measured. Earlier rows may be missing."""
        measured = np.flatnonzero(np.isfinite(self.correct[:, 0]))
        return int(measured[-1]) + 1 if len(measured) else 0

    def until(self, task: int) -> "AccuracyMatrix":
        """The matrix as it was right after learning `task`."""
        cut = AccuracyMatrix(self.totals[: task + 1].tolist())
        cut.correct[:] = self.correct[: task + 1, : task + 1]
        return cut

    def after(self, task: int) -> float:
        """A_t = (1/t) Σ_{i≤t} R[t, i]: mean over tasks after learning `task` (L2P, DualPrompt, PGP, AttriCLIP)."""
        return float(np.mean(self.percent[task, : task + 1]))

    def curve(self) -> list[float]:
        """A_t after each task learned."""
        return [self.after(task) for task in range(self.learned)]

    def pooled_after(self, task: int) -> float:
        """Accuracy on the union of the test sets (PyCIL, PILOT, DyTox). Differs from `after` if tasks have unequal sizes."""
        return float(100 * self.correct[task, : task + 1].sum() / self.totals[: task + 1].sum())

    def average(self) -> float:
        """ACC = A_T, the mean of the last row (PGP, L2P, AttriCLIP)."""
        return self.after(self.learned - 1)

    def pooled_average(self) -> float:
        """ACC pooled by sample (PyCIL, PILOT)."""
        return self.pooled_after(self.learned - 1)

    def incremental_average(self) -> float:
        """(1/T) Σ_t A_t with A_t the mean over tasks (iCaRL, DER). It is not comparable with ACC."""
        return float(np.mean([self.after(task) for task in range(self.learned)]))

    def pooled_incremental_average(self) -> float:
        """(1/T) Σ_t A_t with A_t pooled by sample (PyCIL, PILOT, DyTox)."""
        return float(np.mean([self.pooled_after(task) for task in range(self.learned)]))

    def forgetting(self) -> float:
        """(1/(T−1)) Σ_{i<T} (max_{i≤j<T} R[j, i] − R[T, i]), the maximum over earlier rows only (Chaudhry et al. 2018, FACIL).

        A task whose last accuracy is its best gives a negative term. The result is NaN if an earlier row was not measured.
        """
        return self._mean_over_old(lambda r, i, last: r[i:last, i].max() - r[last, i])

    def forgetting_curve(self) -> list[float]:
        """The forgetting after each task learned; NaN after the first, when nothing can be forgotten."""
        return [self.until(task).forgetting() for task in range(self.learned)]

    def forgetting_with_last(self) -> float:
        """F⁺: the maximum includes the last row, so no term is negative (released code of L2P, DualPrompt, PGP; mammoth)."""
        return self._mean_over_old(lambda r, i, last: r[i : last + 1, i].max() - r[last, i])

    def backward_transfer(self) -> float:
        """BWT = (1/(T−1)) Σ_{i<T} (R[T, i] − R[i, i]) (Lopez-Paz & Ranzato 2017, GEM). Avalanche's forgetting is −BWT."""
        return self._mean_over_old(lambda r, i, last: r[last, i] - r[i, i])

    def forward_transfer(self, untrained: Sequence[float]) -> float:
        """FWT = (1/(T−1)) Σ_{i>1} (R[i−1, i] − r_i) (GEM); `untrained` holds r_i, the accuracies of an untrained model.

        It needs the entries above the diagonal, which are zero by construction if unseen classes are masked.
        """
        r, tasks = self.percent, len(self.totals)
        return float(np.mean([r[i - 1, i] - untrained[i] for i in range(1, tasks)])) if tasks > 1 else NAN

    def step_drops(self) -> float:
        """(1/(T−1)) Σ_{t≥2} (1/t) Σ_{i<t} (R[t−1, i] − R[t, i]) (text of CODA-Prompt): smaller than forgetting."""
        r, tasks = self.percent, self.learned
        drops = [sum(r[t - 1, i] - r[t, i] for i in range(t)) / (t + 1) for t in range(1, tasks)]
        return float(np.mean(drops)) if drops else NAN

    def summary(self) -> dict[str, float | None]:
        """Return all metrics above that need only this matrix, by name, rounded; None if a metric is undefined."""
        numbers = {
            "acc": self.average(),
            "acc_pooled": self.pooled_average(),
            "incremental_average": self.incremental_average(),
            "incremental_average_pooled": self.pooled_incremental_average(),
            "forgetting": self.forgetting(),
            "forgetting_with_last": self.forgetting_with_last(),
            "backward_transfer": self.backward_transfer(),
            "step_drops": self.step_drops(),
        }
        return {name: round(value, 3) if math.isfinite(value) else None for name, value in numbers.items()}

    def _mean_over_old(self, term: Callable[[np.ndarray, int, int], float]) -> float:
        """Mean of term(R, i, last row) over all tasks i but the last one."""
        r, last = self.percent, self.learned - 1
        return float(np.mean([term(r, i, last) for i in range(last)])) if last > 0 else NAN


class Transfer(NamedTuple):
    """Forward and backward transfer of AttriCLIP: differences between two runs (CVPR 2023, Tables 3 and 4)."""

    forward: float
    backward: float


def transfer_between_runs(
    *, second_after_first: float, second_alone: float, first_after_second: float, first_alone: float
) -> Transfer:
    """FT = ACC(second after first) − ACC(second alone); BT = ACC(first, tested after second) − ACC(first alone)."""
    return Transfer(second_after_first - second_alone, first_after_second - first_alone)


def impossible(acc: float, forgetting: float, tasks: int, tolerance: float = 0.05) -> str | None:
    """Return why a published pair of ACC and forgetting cannot come from one run, or None. `tolerance` allows for rounding.

    No accuracy exceeds 100, so with forgetting F the highest ACC is [(T−1)(100 − F) + 100] / T.
    """
    ceiling = ((tasks - 1) * (100 - forgetting) + 100) / tasks
    if acc <= ceiling + tolerance:
        return None
    return f"ACC {acc:.2f} is impossible: forgetting {forgetting:.2f} over {tasks} tasks leaves at most {ceiling:.2f}"


COUNTS = {
    "class_il": "among all classes seen",
    "task_il": "among the task's own classes",
    "dataset_il": "among the classes of its data set",
    "leaky_il": "as released code counts that reads the task off several tests of one task",
}
DEFINITIONS = {
    "acc": "mean of the last row over tasks (L2P, DualPrompt, PGP, AttriCLIP)",
    "acc_pooled": "correct over seen on the union of test sets after the last task (PyCIL, PILOT)",
    "incremental_average": "mean over t of the task mean after task t (iCaRL, DER)",
    "incremental_average_pooled": "mean over t of the pooled accuracy after task t (PyCIL, PILOT, DyTox)",
    "forgetting": "mean over old tasks of best earlier accuracy minus last (Chaudhry et al.; FACIL)",
    "forgetting_with_last": "the same with the last row inside the maximum (released L2P, DualPrompt, PGP; mammoth)",
    "backward_transfer": "mean over old tasks of last accuracy minus accuracy right after learning (GEM)",
    "step_drops": "mean over t of the mean drop of old tasks in one step (CODA-Prompt)",
}
