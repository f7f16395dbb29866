"""Run the experiments of a published table and compare with its numbers.

python scripts/reproduce.py                    # list the tables
python scripts/reproduce.py pgp_table5         # make reproduce TABLE=pgp_table5
python scripts/reproduce.py pgp_table5 --dry   # the missing runs and their time
python scripts/reproduce.py pgp_table5 --seeds 0,1,2 --row L2P \\
    --column cifar100_10tasks --on submitit_slurm
python scripts/reproduce.py glyphs             # fills docs/results/all_methods.md
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from cil.common import places
from cil.common.errors import UserError, nearest
from cil.common.plugins import conf_folders
from cil.common.tables import fill
from cil.launch.compose import Composer, find_plugins, guarded, options
from cil.launch.runs import OUTPUTS, side_by_side
from cil.report.collect import MEANING, collect, count
from cil.report.documents.project import listed, page_of
from cil.report.numbers import Numbers
from cil.report.published import Table, load, tables
from cil.report.reproduced import LANGUAGES, compact, lines
from cil.runs.run_folder import address


class Entry(NamedTuple):
    """One configuration of the table; its runs differ only in the seed."""

    column: str
    row: int
    reading: str
    words: list[str]
    places: list[str]  # addresses, by seed
    config: dict  # of the first seed
    beside: bool = False  # a run on one dataset, with which the row's run on two is compared


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", help="the name of a file in cil/report/published")
    parser.add_argument("--seeds", help="as 0,1,2 (default: those of the table)")
    parser.add_argument("--row", action="append", help="only rows of this name; may be repeated")
    parser.add_argument("--column", action="append", help="only this column; may be repeated")
    parser.add_argument("--on", default="here", help="here (default), or a launcher: joblib, submitit_local, submitit_slurm")
    parser.add_argument("--format", default="text", choices=LANGUAGES, help="of the printed table")
    parser.add_argument("--outputs", type=Path, default=OUTPUTS, help="the folder of the runs")
    parser.add_argument("--dry", action="store_true", help="run nothing; print the results that exist")
    parser.add_argument("--settings", nargs="*", default=[], metavar="KEY=VALUE", help="for every run, as data.root=…")
    asked = parser.parse_args()
    if asked.table is None:
        return guarded(lambda: print("\n".join(f"{name:24}{load(name).paper}, {load(name).table}" for name in tables())))
    return guarded(lambda: reproduce(asked))


def reproduce(asked: argparse.Namespace) -> int:
    find_plugins([])
    own = [file.stem for folder in conf_folders() for file in (folder / "hydra" / "launcher").glob("*.yaml")]
    launchers = ["here", "basic", "joblib", *options("hydra/launcher"), *own]
    if asked.on not in launchers:
        raise UserError(f"--on {asked.on} is not known; {nearest(asked.on, launchers)}")
    table = narrowed(load(asked.table), asked.row, asked.column)
    seeds = seeds_of(asked.seeds) if asked.seeds else table.seeds
    if elsewhere := [word for word in asked.settings if word.startswith("outputs=")]:
        raise UserError(f"--settings {elsewhere[0]}: type --outputs {elsewhere[0].removeprefix('outputs=')} instead")
    outputs = asked.outputs.absolute()  # not resolve(): a symbolic link stays a link
    settings = [*asked.settings, *([] if outputs == OUTPUTS else [f"outputs={outputs}"])]
    entries = list(planned(table, seeds, settings))
    if not entries:
        raise UserError(f"no row of {table.name} can be run here; its numbers are in cil/report/published/{table.name}.yaml")
    found, passed_over = finished(outputs)
    print("\n".join(cost(table, entries, found)), file=sys.stderr)
    failed = []
    if not asked.dry:
        failed = run(entries, found, seeds, asked.on)
        found, passed_over = finished(outputs)
    runs: defaultdict[tuple[str, int, str], list[dict]] = defaultdict(list)
    for entry in entries:
        if not entry.beside:
            runs[entry.column, entry.row, entry.reading] += [found[place] for place in entry.places if place in found]
    numbers = Numbers(outputs, list(found.values()))
    parts = {key: lines(table, key, runs, numbers) for key in table.columns}
    write: Any = LANGUAGES[asked.format]
    print(write(table, parts))
    whole = not (asked.dry or asked.row or asked.column or asked.settings or failed)
    if places.CHECKOUT and whole and table.name == "glyphs" and outputs == places.CHECKOUT / "outputs":
        fill(page_of(places.CHECKOUT, "results"), "results", page(table, parts, runs, listed(seeds)))
    for line in passed_over:
        print(f"skipped: {line}", file=sys.stderr)
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    return 2 if failed else 0


def seeds_of(words: str) -> list[int]:
    try:
        seeds = [int(word) for word in words.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len({*seeds}) < len(seeds):
        raise UserError(f"--seeds {words} is not a list of different seeds; type --seeds 0,1,2")
    return seeds


def narrowed(table: Table, names: list[str] | None, keys: list[str] | None) -> Table:
    for name in names or ():
        if name not in {row.name for row in table.rows}:
            raise UserError(f"{table.name} has no row {name}; {nearest(name, [row.name for row in table.rows])}")
    for key in keys or ():
        if key not in table.columns:
            raise UserError(f"{table.name} has no column {key}; {nearest(key, table.columns)}")
    chosen = [row for row in table.rows if names is None or row.name in names]
    left = {key: column for key, column in table.columns.items() if keys is None or key in keys}
    return Table(**{**vars(table), "rows": chosen, "columns": left})


# --- the runs -----------------------------------------------------------------------------------------------------------


def planned(table: Table, seeds: list[int], settings: list[str]) -> Iterator[Entry]:
    """Yield every configuration of the table that can be run here."""
    compose = Composer()
    for number, row in enumerate(table.rows):
        for key in row.numbers:
            if row.run is None or key not in table.columns:
                continue
            for reading in row.readings:
                words = [*table.columns[key].run, f"reading={reading}", *row.run, *settings]  # a row may name its reading
                two = any(quantity.startswith("across.") for quantity in table.columns[key].quantities)
                for more in ([], ["dataset.only=second"])[: 1 + two]:
                    configs = [compose(*words, *more, f"seed={seed}") for seed in seeds]
                    yield Entry(key, number, reading, [*words, *more], [*map(address, configs)], configs[0], bool(more))


def finished(outputs: Path) -> tuple[dict[str, dict], list[str]]:
    """Return the summaries of finished runs by address, and a line for each folder that was skipped."""
    found, passed_over = collect(outputs)
    return {summary["address"]: summary for summary in found}, passed_over


def cost(table: Table, entries: list[Entry], found: dict[str, dict]) -> Iterator[str]:
    """Yield lines that say how many runs are missing and how long similar runs took."""
    wanted = {place: entry for entry in entries for place in entry.places}
    missing = {place: entry for place, entry in wanted.items() if place not in found}
    quoted = sum(row.run is None for row in table.rows)
    yield f"{table.name}: {len(table.rows)} rows, {quoted} of them only quoted; {len(missing)} of {len(wanted)} runs to do"
    known, unknown = 0.0, []
    for place, entry in missing.items():
        similar = [run["seconds"] for other, run in found.items() if other.rsplit("/", 1)[0] == place.rsplit("/", 1)[0]]
        similar = similar or [run["seconds"] for other, run in found.items() if other.split("/")[:2] == place.split("/")[:2]]
        known += fmean(similar) if similar else 0.0
        unknown += [] if similar else [entry]
    if len(missing) > len(unknown):
        yield f"  {len(missing) - len(unknown)} of them like runs that took {_time(known)} in total, one after another"
    if unknown:
        epochs = sum(epochs_of(entry.config) for entry in unknown)
        yield f"  {len(unknown)} similar to no finished run: {epochs} epochs; --row NAME runs one row, to know its time"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def epochs_of(config: dict) -> int:
    """The number of epochs over all tasks."""
    train, tasks = config["train"], config["scenario"]["tasks"]
    return (train.get("first") or {}).get("epochs", train["epochs"]) + (tasks - 1) * train["epochs"]


def run(entries: list[Entry], found: dict[str, dict], seeds: list[int], on: str) -> list[str]:
    """Run each configuration with missing runs as a sweep over its seeds; returns the error lines of failed sweeps."""
    sweeps = {}
    for entry in entries:
        lacking = [seed for seed, place in zip(seeds, entry.places) if place not in found]
        if lacking:
            sweeps[entry.places[0]] = [*entry.words, f"seed={listed(lacking)}"]
    return side_by_side(list(sweeps.values()), on)


# --- the documentation ------------------------------------------------------------------------------------------------


def page(table: Table, parts: dict, runs: dict, seeds: str) -> str:
    """The table as Markdown, with exemplars, trained parameters and seconds of each row."""
    (key,) = parts
    groups = [runs[key, n, reading] for n, row in enumerate(table.rows) for reading in row.readings]
    kept = [str(group[0]["config"]["method"].get("memory") or 0) if group else "–" for group in groups]
    trained = [count(group[0]["trained_parameters"]) if group else "–" for group in groups]
    seconds = [f"{fmean(run['seconds'] for run in group):.0f}" if group else "–" for group in groups]
    text = compact(table, parts, {"exemplars": kept, "trained": trained, "seconds": seconds})
    words = {*table.columns[key].quantities.values()}
    meant = "; ".join(part for part in MEANING.rstrip(".").split("; ") if part.partition(":")[0] in words)
    return f"{text}\n\n{meant}. `make reproduce TABLE=glyphs SEEDS={seeds}` made it."
