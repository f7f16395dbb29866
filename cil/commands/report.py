"""Write the finished runs as one HTML page. It needs no network, server or script.

python scripts/report.py                   # all runs, to outputs/report.html
python scripts/report.py --scenario glyphs_10tasks --to page.html
python scripts/report.py --table pgp_table5    # compared with a published table
"""

import argparse
from pathlib import Path

from cil.commands.reproduce import planned
from cil.common import places
from cil.common.errors import UserError, nearest
from cil.common.files import write_text
from cil.launch.compose import guarded
from cil.report.collect import collect, rows
from cil.report.numbers import Numbers
from cil.report.page import Printed, page
from cil.report.published import Table, load


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, default=places.outputs(), metavar="DIR", help="the folder of the runs")
    parser.add_argument("--scenario", help="only runs of this scenario")
    parser.add_argument("--table", help="only runs of this published table, as pgp_table5")
    parser.add_argument("--to", type=Path, metavar="FILE", help="the page (default: report.html in the folder of the runs)")
    asked = parser.parse_args()
    return guarded(lambda: report(asked), "type --to FILE")


def report(asked: argparse.Namespace) -> None:
    found, passed_over = collect(asked.outputs)
    passed_over = [line.removeprefix(f"{asked.outputs}/") for line in passed_over]
    if not found:
        raise UserError(f"no finished run below {asked.outputs}; type python run.py method=finetune first, or --outputs DIR")
    kept = [run for run in found if asked.scenario in (None, run["scenario"])]
    if not kept:
        known = {run["scenario"] for run in found}
        raise UserError(
            f"no finished run of --scenario {asked.scenario} below {asked.outputs}; {nearest(asked.scenario, known)}"
        )
    title = asked.scenario or "Finished runs"
    published: dict[str, Printed] = {}
    notes: list[str] = []
    if asked.table:
        published, title, notes = beside(load(asked.table), {run["digest"] for run in kept})
        kept = [run for run in kept if run["digest"] in published]
        if not kept:
            raise UserError(
                f"no finished run of --table {asked.table} below {asked.outputs}; type make reproduce TABLE={asked.table}"
            )
    to = asked.to or asked.outputs / "report.html"
    numbers = Numbers(asked.outputs, found)
    write_text(to, page(rows(kept), numbers, title=title, published=published, passed_over=passed_over, notes=notes))
    print(f"{to}: {len(kept)} runs, {to.stat().st_size / 2**20:.1f} MiB")


def beside(table: Table, finished: set[str]) -> tuple[dict[str, Printed], str, list[str]]:
    """Return the published numbers by digest of their configuration, a title, and notes about what the page does not show."""
    published: dict[str, Printed] = {}
    missing: dict[str, dict[str, None]] = {}
    for entry in planned(table, [0], []):
        row = table.rows[entry.row]
        digest, name = Path(entry.places[0]).parent.name, row.name + f", {row.memory}" * bool(row.memory)
        if not entry.beside:
            published.setdefault(digest, Printed(name, row.numbers[entry.column]))
            if digest not in finished:
                missing.setdefault(f"Not run here yet, {table.columns[entry.column].title}", {})[name] = None
    quoted = dict.fromkeys(row.name for row in table.rows if row.run is None)
    groups = {**missing, "Quoted only": quoted}
    notes = [table.title, *table.notes, *(f"{words}: {'; '.join(names)}." for words, names in groups.items() if names)]
    return published, f"{table.paper}, {table.table}", notes
