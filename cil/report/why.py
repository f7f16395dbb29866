"""Explains why two runs differ: lists the settings, files and versions that can change results, most likely causes first."""

import json
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from cil.metrics import AccuracyMatrix
from cil.runs.run_folder import RunDir, read_matrices


class Difference(NamedTuple):
    rank: int  # smaller: more likely to be the cause
    what: str
    first: object
    second: object


# Causes of differences, most likely first, by experience from issue trackers of this field.
RANKS = (
    (("weights", "weights_sha256", "config.backbone"), "another checkpoint or backbone"),
    (("data_digest", "config.dataset"), "other images"),
    (("split_digest", "order_digest", "config.scenario"), "another split or class order"),
    (("train_transform", "test_transform", "config.augment"), "another transform or input range"),
    (("config.method", "config.modifier"), "another method, reading or modifier"),
    (("config.optim", "config.schedule", "config.train"), "another recipe"),
    (("precision", "tf32", "config.machine.precision", "config.machine.tf32"), "another precision"),
    (("config.seed",), "another seed"),
    (("git_commit",), "other code"),
    (("feature_blocks",), "features encoded by another machine or software: only the last bits differ"),
    (
        ("packages", "python", "device", "threads", "processes", "compile", "config.machine"),
        "other software or hardware: only the last bits differ",
    ),
)
IGNORED = ("config.outputs", "config.reading", "config.data", "config.log", "config.save", "config.scenario.name",
           "config.machine.device", "config.machine.checkpoint_seconds", "config.machine.keep_checkpoints")  # fmt: skip


def differences(first: dict, second: dict) -> list[Difference]:
    """The differences between two summaries, most likely cause first."""
    return between(*(dict(flatten(facts(summary))) for summary in (first, second)))


def between(*flat: Mapping[str, object]) -> list[Difference]:
    """The differences between two flat dictionaries, as `flatten` makes them."""
    found = []
    for key in sorted(flat[0].keys() | flat[1].keys()):
        one, two = (side.get(key, "absent") for side in flat)
        if one != two and not _under(key, IGNORED):
            found.append(Difference(_rank(key), key, one, two))
    return sorted(found)


def cause(rank: int) -> str:
    return RANKS[rank][1] if rank < len(RANKS) else "another setting"


def first_parting(first: AccuracyMatrix, second: AccuracyMatrix) -> str | None:
    """A sentence on the first task after which an accuracy differs; None if there is none."""
    for after in range(min(first.learned, second.learned)):
        for on in range(after + 1):
            one, two = first.percent[after, on], second.percent[after, on]
            if one != two and one == one and two == two:  # NaN: not measured
                return f"the accuracies part after task {after + 1}: {one:.2f} and {two:.2f} % on task {on + 1}"
    if first.learned != second.learned:
        return f"the accuracies agree as far as both go; one run has {first.learned} tasks, the other {second.learned}"
    return None


def first_other_loss(first: Path, second: Path) -> str | None:
    """A sentence on the first logged loss that differs, usually earlier than the accuracies; None if there is none."""
    for one, two in zip_longest(_losses(first), _losses(second)):
        if one != two:
            if one is None or two is None:
                return "one run logged more epochs than the other"
            task, phase, epoch, values = one
            return f"the losses first differ at task {task + 1}, {phase}, epoch {epoch + 1}: {values} and {two[3]}"
    return None


def explain(first: Path, second: Path) -> Iterator[str]:
    """Yields the whole comparison of two run folders, line by line."""
    summaries = [RunDir(path).summary() for path in (first, second)]
    matrices = [read_matrices(path)["class_il"] for path in (first, second)]
    names = [summary["address"] for summary in summaries]
    accuracies = [matrix.average() for matrix in matrices]
    yield f"A  {names[0]}  ACC {accuracies[0]:.2f}"
    yield f"B  {names[1]}  ACC {accuracies[1]:.2f}  (B − A: {accuracies[1] - accuracies[0]:+.2f})"
    yield from listed(differences(*summaries))
    yield first_other_loss(first, second) or "The logged losses are bit-identical."
    yield first_parting(*matrices) or "The accuracies are equal."


def listed(found: list[Difference]) -> Iterator[str]:
    """Yields the differences grouped by cause, between two empty lines."""
    last = None
    yield "" if found else "\nNothing that can move a number differs."
    for difference in found:
        if difference.rank != last:
            last = difference.rank
            yield f"{cause(last)}:"
        yield f"  {difference.what.removeprefix('config.')}: {short(difference.first)} → {short(difference.second)}"
    yield ""


def facts(summary: dict) -> dict:
    return {**summary["identity"], "config": summary["config"]}


def flatten(node: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def _rank(key: str) -> int:
    for rank, (prefixes, _) in enumerate(RANKS):
        if _under(key, prefixes):
            return rank
    return len(RANKS)


def _under(key: str, places: tuple[str, ...]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _losses(path: Path) -> list[tuple]:
    events = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    return [(e["task"], e["phase"], e["epoch"], e["losses"]) for e in events if "losses" in e]


def short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
