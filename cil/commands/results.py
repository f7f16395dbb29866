"""Print every finished run as one row: names, metrics, digests and settings.

cil results --csv > results.csv
cil results --json | jq .
cil results --latex --columns method,seed,ACC,forgetting
"""

import argparse
import csv
import json
import sys
from pathlib import Path

from cil.common import places
from cil.common.errors import UserError, nearest
from cil.launch.compose import guarded
from cil.report.finished import METRICS, rows

SHORT = ("scenario", "method", "reading", "seed", "ACC", "forgetting", "BT")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, default=places.outputs(), help="the folder of the runs")
    form = parser.add_mutually_exclusive_group()
    for name in ("csv", "json", "latex"):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=f"print {name.upper()}")
    parser.add_argument("--columns", help=f"comma-separated; all for CSV and JSON, for LaTeX {','.join(SHORT)}")
    asked = parser.parse_args(words)
    return guarded(lambda: write(asked.outputs, asked.form or "csv", asked.columns.split(",") if asked.columns else None))


def write(outputs: Path, form: str, columns: list[str] | None) -> None:
    found = rows(outputs)
    if not found:
        raise UserError(f"no finished run below {outputs}; type --outputs DIR, or run something first")
    known = list(dict.fromkeys(key for row in found for key in row))
    for column in columns or ():
        if column not in known:
            raise UserError(f"--columns {column} is not a column; {nearest(column, known, 'the first line of cil results')}")
    chosen = columns or (list(SHORT) if form == "latex" else known)
    table = [{key: row.get(key) for key in chosen} for row in found]
    if form == "json":
        print(json.dumps(table, indent=1))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, chosen, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    else:
        print(latex(chosen, table))


ESCAPED = str.maketrans({char: rf"\{char}" for char in "_%&#${}"} | {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"})


def latex(columns: list[str], table: list[dict]) -> str:
    """A tabular, with metrics to one decimal and settings as they are."""

    def cell(value: object, key: str = "") -> str:
        text = f"{value:.1f}" if key in METRICS and value is not None else "--" if value is None else str(value)
        return text.translate(ESCAPED)

    head = [rf"\begin{{tabular}}{{{'l' * len(columns)}}}", r"\toprule", " & ".join(map(cell, columns)) + r" \\ \midrule"]
    body = [" & ".join(cell(row[key], key) for key in columns) + r" \\" for row in table]
    return "\n".join([*head, *body, r"\bottomrule", r"\end{tabular}"])
