"""Explain why two results differ: compare runs, sweeps, or a published row.

python scripts/why.py RUN_A RUN_B              # two finished run folders
python scripts/why.py outputs_a outputs_b      # two folders of runs
python scripts/why.py RUN pgp_table5:L2P       # a row of cil/report/published
python scripts/why.py RUN pgp_table5:L2P:cifar100_20tasks:released
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from cil.common.errors import UserError, nearest
from cil.launch.compose import compose, guarded
from cil.report import why
from cil.report.collect import collect
from cil.report.numbers import Numbers
from cil.report.published import load, tables


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, metavar="A", help="a run folder, or a folder of runs")
    parser.add_argument("second", metavar="B", help="another folder, or TABLE:ROW[:COLUMN[:READING]]")
    asked = parser.parse_args()
    return guarded(lambda: print("\n".join(answer(asked.first, asked.second))))


def answer(first: Path, second: str) -> Iterator[str]:
    if not Path(second).exists() and (":" in second or second in tables()):
        return against(first, *second.split(":", 3))
    both = first, Path(second)
    if all((folder / "DONE").exists() for folder in both):
        return why.explain(*both)
    return why.sweeps(*(why.runs_below(folder) for folder in both))


def against(folder: Path, name: str, row_name: str = "", key: str = "", reading: str = "paper") -> Iterator[str]:
    table, runs = load(name), why.runs_below(folder)
    outputs = outputs_of(folder, runs)
    if any(quantity.startswith("across.") for column in table.columns.values() for quantity in column.quantities):
        runs = [run for run in runs if not run["config"]["dataset"].get("only")] or runs  # drop runs on one dataset
    named = [row for row in table.rows if row_name in (row.name, f"{row.name}, {row.memory}")]
    memory = runs[0]["config"]["method"].get("memory")
    named.sort(key=lambda row: row.memory != memory)  # rows of the same name differ in their memory
    if not row_name:
        raise UserError(
            f"{name} is a table; type {name}:ROW with one of {', '.join(dict.fromkeys(r.name for r in table.rows))}"
        )
    if not named:
        raise UserError(f"{name} has no row {row_name}; {nearest(row_name, [row.name for row in table.rows])}")
    own = [column for column in table.columns if runs[0]["scenario"] == column]
    fitting = [key] if key else [*own, *named[0].numbers]
    row = next((row for row in named if fitting[0] in row.numbers), None)
    if (key and key not in table.columns) or row is None:
        raise UserError(f"{name}:{row_name} has no column {key or fitting[0]}; {nearest(key, table.columns)}")
    released = [f"reading={reading}"] if reading != "paper" else []
    words = None if row.run is None else [*table.columns[fitting[0]].run, *row.run, *released]
    config = None if words is None else compose(*words)
    return why.printed(runs, Numbers(outputs, collect(outputs)[0]), table, row, fitting[0], words, config)


def outputs_of(folder: Path, runs: Sequence[dict]) -> Path:
    """The outputs folder to which the addresses of the runs are relative."""
    address = Path(runs[0]["address"]).parts
    found = (file.parent.resolve() for file in folder.rglob("summary.json"))
    return next(run.parents[len(address) - 1] for run in found if run.parts[-len(address) :] == address)
