"""Explains why two runs, two sweeps, or runs and a published row differ.

It lists the settings, files, versions and definitions that can change results, most likely causes first.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, zip_longest
from pathlib import Path
from typing import NamedTuple

from cil.common.errors import UserError
from cil.common.places import entry
from cil.metrics import AccuracyMatrix
from cil.report.collect import apart, flatten, settings_of
from cil.report.numbers import Numbers, over
from cil.report.published import Number, Row, Table, meaning
from cil.runs.run_folder import RunDir, read_matrices

Runs = Sequence[dict]  # summaries


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
    return between(*(flatten(facts(summary)) for summary in (first, second)))


def between(*flat: Mapping[str, object]) -> list[Difference]:
    """The differences between two flat dictionaries, as `flatten` makes them."""
    found = []
    for key in sorted(flat[0].keys() | flat[1].keys()):
        one, two = (side.get(key, "absent") for side in flat)
        if one != two and not _under(key, IGNORED):
            found.append(Difference(_rank(key), key, one, two))
    return sorted(found)


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
    yield "" if found else "\nNothing that can move a number differs."
    for rank, same in groupby(found, key=lambda difference: difference.rank):
        yield f"{RANKS[rank][1] if rank < len(RANKS) else 'another setting'}:"
        for difference in same:
            yield f"  {difference.what.removeprefix('config.')}: {short(difference.first)} → {short(difference.second)}"
    yield ""


def facts(summary: dict) -> dict:
    return {**summary["identity"], "config": summary["config"]}


def _rank(key: str) -> int:
    return next((rank for rank, (prefixes, _) in enumerate(RANKS) if _under(key, prefixes)), len(RANKS))


def _under(key: str, places: tuple[str, ...]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _losses(path: Path) -> list[tuple]:
    events = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    return [(e["task"], e["phase"], e["epoch"], e["losses"]) for e in events if "losses" in e]


def short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


# --- two sweeps ---------------------------------------------------------------------------------------------------------


def runs_below(folder: Path) -> Runs:
    """Summaries of all finished runs below a folder: of a run, a configuration, a method or all outputs.

    Runs with debug=true are left out, unless there are no others.
    """
    files = sorted(file for file in folder.rglob("summary.json") if (file.parent / "DONE").exists())
    if not files:
        raise UserError(f"{folder} holds no finished run (with a file DONE); type a folder that run.py wrote first, and then "
                        "another one or TABLE:ROW as in pgp_table5:L2P")  # fmt: skip
    runs = [RunDir(file.parent).summary() for file in files]
    return [run for run in runs if not run["config"].get("debug")] or runs


def sweeps(first: Runs, second: Runs) -> Iterator[str]:
    """Yields the accuracies of both sweeps, and every setting or fact in which they differ.

    Runs are paired by scenario, method and reading, and also by the settings that are swept over within one of the two.
    """
    yield f"A  {told(first)}"
    yield f"B  {told(second)}"
    yield ""
    kinds: list[dict[tuple, dict]] = [defaultdict(dict), defaultdict(dict)]
    for kind, runs in zip(kinds, (first, second)):
        for run in runs:
            kind[run["scenario"], run["method"], run["config"].get("reading", "paper")][run["seed"], run["digest"]] = run
    groups: dict[tuple, tuple[Runs, Runs]] = {}  # the runs of both sides
    for key in kinds[0].keys() | kinds[1].keys():
        for settings, same in by_settings(*(list(kind[key].values()) for kind in kinds)).items():
            for words, sides in separated(*same).items():
                groups[(*key, *filter(None, (settings, words)))] = sides
    if not any(all(sides) for sides in groups.values()):
        raise UserError("these folders have no scenario, method, reading and swept setting in common; type the folders of two "
                        "runs, which end in seed0")  # fmt: skip
    groups = dict(sorted(groups.items()))
    for key, sides in groups.items():
        means = [over([run["class_il"]["acc"] for run in side]) for side in sides]
        ours, theirs = (_of(mean, len(side)) for mean, side in zip(means, sides))
        yield f"{' · '.join(key)}: ACC {ours} → {theirs}{_moved(*means)}"
    both = {key: between(*map(values, sides)) for key, sides in groups.items() if all(sides)}
    common = [one for one in next(iter(both.values()), ()) if all(one in found for found in both.values())]
    yield from listed(common) if common or not any(both.values()) else ()
    for key, found in both.items():
        if own := [one for one in found if one not in common]:
            yield f"\n{' · '.join(key)} alone:"
            yield from listed(own)


def by_settings(first: Runs, second: Runs) -> dict[str, tuple[Runs, Runs]]:
    """The runs of each value of the settings that vary within one of two lists, so that no mean is over several settings."""
    sides = [
        [settings_of(run["config"]) | {"objective.on": (run["config"].get("objective") or {}).get("on")} for run in side]
        for side in (first, second)
    ]
    values_of = [{key: {str(own.get(key)) for own in side} for key in {*()}.union(*side)} for side in sides]
    swept = sorted({key for values in values_of for key, several in values.items() if len(several) > 1})
    groups: dict[str, tuple[list[dict], list[dict]]] = defaultdict(lambda: ([], []))
    for number, (side, runs) in enumerate(zip(sides, (first, second))):
        for own, run in zip(side, runs):
            groups[" ".join(f"{key}={own.get(key)}" for key in swept)][number].append(run)
    return dict(groups)


def separated(first: Runs, second: Runs) -> dict[str, tuple[Runs, Runs]]:
    """Two lists of runs to compare, by the words of `apart`; not separated if each list saw the same in all its runs.

    Two lists that differ from each other are compared: then other images may be what explains a difference.
    """
    if len(apart(first)) < 2 and len(apart(second)) < 2:
        return {"": (first, second)}
    kinds = sorted(apart([*first, *second]), key=lambda kind: kind[0])
    return {words: ([run for run in first if run in own], [run for run in second if run in own]) for words, own in kinds}


def values(runs: Runs) -> dict[str, str]:
    """The values that each fact takes in a sweep, joined by ` | `."""
    flat = [flatten(facts(run)) for run in runs]
    keys = {key for own in flat for key in own}
    return {key: " | ".join(sorted({str(own.get(key, "absent")) for own in flat})) for key in keys}


def told(runs: Runs) -> str:
    places = sorted({run["address"].rsplit("/", 1)[0] for run in runs})
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    seeds = ",".join(map(str, sorted({run["seed"] for run in runs})))
    return f"{places[0]}{more}: {len(runs)} runs, seeds {seeds}"


def _of(number: Number | None, seeds: int) -> str:
    return "not there" if number is None else f"{number} ({seeds})"


def _moved(first: Number | None, second: Number | None) -> str:
    return f"  ({second.value - first.value:+.2f})" if first and second else ""


# --- a printed row ------------------------------------------------------------------------------------------------------


def printed(
    runs: Runs, numbers: Numbers, table: Table, row: Row, key: str, command: Sequence[str] | None, config: Mapping | None
) -> Iterator[str]:  # fmt: skip
    """Yields the comparison of runs with one column of a published row.

    `command`, `config`: the words of the row's own command, and what they compose; None if the row is only quoted.
    """
    column = table.columns[key]
    yield f"A  {told(runs)}"
    yield f"P  {table.paper}, {table.table}: {row.name}, {column.title}"
    yield ""
    for quantity, word in column.quantities.items():
        groups = [(settings, *group) for settings, (own, _) in by_settings(runs, []).items() for group in apart(own)]
        for settings, words, own in groups:
            ours, theirs = over([numbers.of(run, quantity) for run in own]), row.numbers[key].get(quantity)
            if ours or theirs:
                named, here = " ".join(filter(None, (word, settings, words))), _of(ours, len(own))
                yield f"{named}: {here} here, {theirs or 'nothing'} printed{_moved(theirs, ours)}"
    if command is None or config is None:
        yield f"\nThe row cannot be run here: {row.quoted}"
    else:
        asked = {name: str(value) for name, value in flatten({"config": {**config, "seed": None}}).items()}
        runs = [{**run, "config": {**run["config"], "seed": None}} for run in runs]
        typed = {name: value for name, value in values(runs).items() if name.startswith("config.")}
        yield "\nSettings of these runs that differ from the row's own command, A → P:"
        yield from listed(between(typed, asked))
        yield f"The row's command: {' '.join([*entry(), *command])}"
    for quantity, word in column.quantities.items():  # papers define the same word in different ways
        yield f"{word} is taken as `{quantity}`: {meaning(quantity)}"
    yield from (f"note: {note}" for note in (*table.notes, *row.notes))
