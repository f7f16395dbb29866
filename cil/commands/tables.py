"""Print the table of a scenario from its finished runs.

python scripts/tables.py                   # all configurations below outputs/
python scripts/tables.py --scenario glyphs_10tasks --markdown
python scripts/tables.py --experiment attriclip_table7/glyphs_10tasks
python scripts/tables.py --scenario latin_to_greek --transfer

--experiment prints a line for each value of a sweep. --transfer prints forward
and backward transfer between two datasets. The tables in docs/ are written by
scripts/fill_docs.py.
"""

import argparse
import sys
from itertools import product
from pathlib import Path

from cil.common import places
from cil.common.errors import UserError, nearest
from cil.common.tables import fitted, mean_and_spread, plural
from cil.launch.compose import compose, guarded, swept
from cil.report.across import tables
from cil.report.collect import COLUMNS, apart, by_scenario, collect, doubts, rows
from cil.runs.run_folder import address


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, default=places.outputs(), help="the folder of the runs")
    parser.add_argument("--scenario", help="only this one; all that have finished runs if not given")
    parser.add_argument("--experiment", help="a line for each value that this experiment sweeps over")
    parser.add_argument("--transfer", action="store_true", help="FT and BT of a scenario with two datasets")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    asked = parser.parse_args()
    found, passed_over = collect(asked.outputs)
    if asked.experiment:
        return guarded(lambda: print(sweep(asked.experiment, found, asked.markdown)))
    if asked.transfer:
        scenario = asked.scenario or "imagenet100_to_cifar100"
        return guarded(lambda: print(transfer(scenario, found, asked.outputs, asked.markdown)))
    unfinished = [line for line in passed_over if line.endswith(": not finished")]
    if unfinished:
        print(f"skipped: {plural(len(unfinished), 'unfinished run')}, first {unfinished[0]}", file=sys.stderr)
    for line in passed_over:
        if line not in unfinished:
            print(f"skipped: {line}", file=sys.stderr)
    kept: list[dict] = [summary for summary in found if asked.scenario in (None, summary["scenario"])]
    if not kept and found:
        print(f"error: no finished run of {asked.scenario} below {asked.outputs}; "
              f"{nearest(asked.scenario, {summary['scenario'] for summary in found})}", file=sys.stderr)  # fmt: skip
        return 2
    if not kept:
        print(f"error: no finished run{f' of {asked.scenario}' if asked.scenario else ''} below {asked.outputs}; type "
              f"{' '.join(places.entry())} method=finetune first", file=sys.stderr)  # fmt: skip
        return 2
    print(by_scenario(kept, markdown=asked.markdown))
    for line in doubts(rows(kept)):
        print(f"impossible row: {line}", file=sys.stderr)
    return 0


def transfer(scenario: str, found: list[dict], outputs: Path, markdown: bool) -> str:
    groups = rows(s for s in found if s["scenario"] == scenario and "dataset_il" in s)
    if not groups:
        raise UserError(f"no finished run of {scenario} over two datasets; type --scenario imagenet100_to_cifar100")
    return tables(groups, found, outputs, markdown=markdown)


def sweep(experiment: str, found: list[dict], markdown: bool) -> str:
    """A table with a line for each combination of values that an experiment sweeps over."""
    axes = swept(experiment)
    seeds, keys = axes.pop("seed", ["0"]), list(axes)
    by_address, lines = {summary["address"]: summary for summary in found}, []
    for values in product(*axes.values()):
        words = [f"experiment={experiment}", *(f"{key}={value}" for key, value in zip(keys, values))]
        wanted = [address(compose(*words, f"seed={seed}")) for seed in seeds]
        runs = [by_address[place] for place in wanted if place in by_address]
        for seen, group in apart(runs) or [("", [])]:
            numbers = [mean_and_spread([run[part][name] for run in group], 2) for part, name in COLUMNS.values()]
            lines.append([*values[:-1], f"{values[-1]}, {seen}" if seen else values[-1], *numbers, str(len(group))])
    if not any(line[-1] != "0" for line in lines):
        raise UserError(f"no finished run of {experiment}; type python run.py -m experiment={experiment}")
    head = [*(key.removeprefix("method.") for key in keys), *COLUMNS, "seeds"]
    titles = [" ".join(f"{key}={value}" for key, value in zip(keys, line)) for line in lines]
    return fitted(head, lines, titles, len(keys), markdown=markdown)
