"""The classes of a configuration on the report page: a confusion matrix and accuracies, from the predictions of its runs."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cil.common.errors import UserError
from cil.common.tables import number
from cil.report import svg
from cil.runs.predictions import per_class, read

FEW = 12  # classes; larger confusion matrices are drawn without numbers


class Classes(NamedTuple):
    """The predictions of one configuration, over its seeds with the same classes in the same order."""

    names: list[str]
    tasks: list[int]  # the task of each class, from 0
    counts: np.ndarray  # (classes, classes) after the last task, summed over seeds; true classes in rows
    percent: np.ndarray  # (tasks, classes) correct after each task, mean over seeds; NaN if one of them was not evaluated
    seeds: int


def of_runs(folders: Sequence[Path]) -> Classes | None:
    """The predictions of the runs that have them; None if there are none. Raises a `UserError` if a file is damaged."""
    found = [run for run in map(read, folders) if run]
    if not found:
        return None
    ends = [run[max(run)] for run in found]
    first = ends[0]
    same = [run for run, end in zip(found, ends) if np.array_equal(end.names, first.names)]
    task_of = dict(zip(first.labels.tolist(), first.tasks.tolist()))
    classes = len(first.names)
    percent = np.full((len(same), max(max(run) for run in same) + 1, classes), np.nan)
    for seed, run in enumerate(same):
        for task, own in run.items():
            percent[seed, task, : len(own.names)] = own.per_class()[: len(own.names)]
    counts = sum((run[max(run)].confusion()[:classes, :classes] for run in same), np.zeros((classes, classes), int))
    tasks = [task_of.get(label, 0) for label in range(classes)]
    return Classes(first.names.tolist(), tasks, counts, percent.mean(0), len(same))


def details(folders: Sequence[Path]) -> str:
    """The HTML for one configuration; empty if it has no predictions."""
    try:
        found = of_runs(folders)
    except UserError as error:
        return f"<p>Its predictions are not shown: {escape(str(error))}</p>"
    if found is None:
        return ""
    over = f"sum over {found.seeds} seeds" if found.seeds > 1 else "one seed"
    return (
        f'<details class="classes"><summary>Classes: how many are right, and what they are taken for</summary>'
        f"<figure><figcaption><b>Confusion matrix</b> after the last task, {over}. Rows: the true class; columns: the "
        f"predicted class, both in the order of arrival. Percent of the row, the color on a square-root scale: {svg.scale()}"
        f'</figcaption><div class="scroll" tabindex="0">{_confusion(found)}</div></figure>'
        "<figure><figcaption><b>Accuracy of each class</b> (columns, in the order of arrival) after each task (rows). "
        f'Percent: {svg.scale()}</figcaption><div class="by-class">{svg.heat(found.percent, "accuracy of each class")}</div>'
        f"</figure>{_table(found)}</details>"
    )


def _confusion(found: Classes) -> str:
    shares = 100 * found.counts / np.maximum(1, found.counts.sum(1, keepdims=True))
    shown = np.where(shares > 0, 10 * np.sqrt(shares), np.nan)
    if len(shares) > FEW:
        starts = [n for n, (one, two) in enumerate(zip(found.tasks, found.tasks[1:]), 1) if one != two]
        return f'<div class="confusion">{svg.heat(shown, "confusion matrix", starts)}</div>'
    head = "".join(f'<th scope="col">{n + 1}' for n in range(len(shares)))
    lines = "".join(
        f'<tr><th scope="row"><span>{escape(name)}</span> {n + 1}'
        + "".join(f'<td class="h{svg.level(value)}">{share:.0f}' if share else "<td>" for value, share in zip(*row))
        for n, (name, row) in enumerate(zip(found.names, zip(shown, shares)))
    )
    return f'<table class="matrix"><thead><tr><th scope="col"><span>class</span>{head}<tbody>{lines}</table>'


def _table(found: Classes) -> str:
    """One line per class, the worst first: accuracy at the end and when its task was learned, and the most frequent error."""
    last, wrong = per_class(found.counts), found.counts.copy()
    np.fill_diagonal(wrong, 0)
    lines = ""
    for label in np.argsort(last, kind="stable").tolist():
        then, other, total = found.percent[found.tasks[label], label], int(wrong[label].argmax()), found.counts[label].sum()
        taken = f"{escape(found.names[other])} ({100 * wrong[label, other] / total:.0f} %)" if wrong[label].any() else "–"
        lines += (f'<tr><th scope="row">{label + 1} {escape(found.names[label])}<td>{found.tasks[label] + 1}'
                  f'<td>{number(float(last[label]))}<td>{number(float(then))}<td class="words">{taken}')  # fmt: skip
    return (
        '<div class="scroll tall" tabindex="0"><table class="all"><thead><tr><th scope="col">class<th scope="col">task'
        f'<th scope="col">last<th scope="col">learned<th scope="col">most often taken for<tbody>{lines}</table></div>'
    )
