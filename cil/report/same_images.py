"""Keeps runs on different images, splits or class orders apart, so that nothing averages over them."""

from collections import defaultdict
from collections.abc import Iterable

from cil.report.collect import INPUTS, inputs


def apart(runs: Iterable[dict]) -> list[tuple[str, list[dict]]]:
    """Runs that saw the same, each with the words that tell them from the others, as `images 0123ab`.

    The words are empty if all runs saw the same.
    """
    groups = defaultdict(list)
    for run in runs:
        groups[inputs(run)].append(run)
    differs = [len(set(column)) > 1 for column in zip(*groups)]
    words = [
        " ".join(f"{word} {key[:6]}" for word, key, other in zip(INPUTS.values(), own, differs) if other) for own in groups
    ]
    return list(zip(words, groups.values()))


def separated(first: list[dict], second: list[dict]) -> dict[str, tuple[list[dict], list[dict]]]:
    """Two lists of runs to compare, by the words of `apart`; not separated if each list saw the same in all its runs.

    Two lists that differ from each other are compared: then other images may be what explains a difference.
    """
    if len(apart(first)) < 2 and len(apart(second)) < 2:
        return {"": (first, second)}
    kinds = sorted(apart([*first, *second]), key=lambda kind: kind[0])
    return {words: ([run for run in first if run in own], [run for run in second if run in own]) for words, own in kinds}
