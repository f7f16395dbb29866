"""Explains why two sweeps, or runs and a published row, differ: settings, files and definitions, most likely cause first."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cil.common.errors import UserError
from cil.report.collect import apart, separated
from cil.report.numbers import Numbers, over
from cil.report.published import Number, Row, Table, meaning
from cil.report.why import between, facts, flatten, listed
from cil.runs.run_folder import RunDir

Runs = Sequence[dict]  # summaries


def runs_below(folder: Path) -> Runs:
    """Summaries of all finished runs below a folder: of a run, a configuration, a method or all outputs."""
    files = sorted(file for file in folder.rglob("summary.json") if (file.parent / "DONE").exists())
    if not files:
        raise UserError(f"{folder} holds no finished run (with a file DONE); type a folder that run.py wrote, or TABLE:ROW as "
                        "in pgp_table5:L2P")  # fmt: skip
    return [RunDir(file.parent).summary() for file in files]


# --- two sweeps ---------------------------------------------------------------------------------------------------------


def sweeps(first: Runs, second: Runs) -> Iterator[str]:
    """Yields the accuracies of both sweeps, and every setting or fact in which they differ."""
    yield f"A  {told(first)}"
    yield f"B  {told(second)}"
    yield ""
    kinds: list[dict[tuple, dict]] = [defaultdict(dict), defaultdict(dict)]
    for kind, runs in zip(kinds, (first, second)):
        for run in runs:
            kind[run["scenario"], run["method"], run["config"].get("reading", "paper")][run["seed"], run["digest"]] = run
    groups: list[dict[tuple, list[dict]]] = [{}, {}]
    for key in sorted(kinds[0].keys() | kinds[1].keys()):
        for words, sides in separated(*(list(kind[key].values()) for kind in kinds)).items():
            for group, side in zip(groups, sides):
                group[(*key, *([words] if words else []))] = side
    for key in sorted(groups[0].keys() | groups[1].keys()):
        means = [over([run["class_il"]["acc"] for run in group[key]]) for group in groups]
        ours, theirs = (_of(mean, len(group[key])) for mean, group in zip(means, groups))
        yield f"{' · '.join(key)}: ACC {ours} → {theirs}{_moved(*means)}"
    both = [key for key in groups[0] if groups[0][key] and groups[1].get(key)]
    apart = {key: tuple(between(*(values(group[key]) for group in groups))) for key in both}
    common = [one for one in apart[both[0]] if all(one in found for found in apart.values())] if both else []
    yield from listed(common) if common or not any(apart.values()) else ()
    for key, found in apart.items():
        if own := [one for one in found if one not in common]:
            yield f"\n{' · '.join(key)} alone:"
            yield from listed(own)


def values(runs: Runs) -> dict[str, str]:
    """The values that each fact takes in a sweep, joined by ` | `."""
    flat = [dict(flatten(facts(run))) for run in runs]
    keys = {key for own in flat for key in own}
    return {key: " | ".join(sorted({str(own.get(key, "absent")) for own in flat})) for key in keys}


def told(runs: Runs) -> str:
    places = sorted({run["address"].rsplit("/", 1)[0] for run in runs})
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    seeds = ",".join(map(str, sorted({run["seed"] for run in runs})))
    return f"{places[0]}{more}: {len(runs)} runs, seeds {seeds}"


def _of(number: Number | None, seeds: int) -> str:
    return "not there" if number is None else f"{_written(number)} ({seeds})"


def _moved(first: Number | None, second: Number | None) -> str:
    return f"  ({second.value - first.value:+.2f})" if first and second else ""


def _written(number: Number) -> str:
    return f"{number.value:.2f}" + (f" ± {number.spread:.2f}" if number.spread is not None else "")


# --- a printed row ------------------------------------------------------------------------------------------------------


def printed(runs: Runs, numbers: Numbers, table: Table, row: Row, key: str, config: Mapping | None) -> Iterator[str]:
    """Yields the comparison of runs with one column of a published row.

    `config`: the configuration of the row's own command; None if the row is only quoted.
    """
    column = table.columns[key]
    yield f"A  {told(runs)}"
    yield f"P  {table.paper}, {table.table}: {row.name}, {column.title}"
    yield ""
    for quantity, word in column.quantities.items():
        for words, own in apart(runs):
            ours, theirs = over([numbers.of(run, quantity) for run in own]), row.numbers[key].get(quantity)
            if ours or theirs:
                there = _written(theirs) if theirs else "nothing"
                yield f"{f'{word} {words}'.strip()}: {_of(ours, len(own))} here, {there} printed{_moved(theirs, ours)}"
    if config is None:
        yield f"\nThe row cannot be run here: {row.quoted}"
    else:
        asked = {name: str(value) for name, value in flatten({"config": {**config, "seed": None}})}
        runs = [{**run, "config": {**run["config"], "seed": None}} for run in runs]
        typed = {name: value for name, value in values(runs).items() if name.startswith("config.")}
        yield "\nSettings of these runs that differ from the row's own command, A → P:"
        yield from listed(between(typed, asked))
        yield f"The row's command: python run.py {' '.join([*column.run, *(row.run or [])])}"
    yield from definitions(column.quantities)
    yield from (f"note: {note}" for note in (*table.notes, *row.notes))


def definitions(quantities: Mapping[str, str]) -> Iterator[str]:
    """Yields the definition of each compared quantity, since papers define the same word in different ways."""
    for quantity, word in quantities.items():
        yield f"{word} is taken as `{quantity}`: {meaning(quantity)}"
