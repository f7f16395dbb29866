"""The table of a scenario from its run folders.

python scripts/tables.py                                # every configuration found below outputs/
python scripts/tables.py --scenario glyphs_10tasks --markdown

The tables of the READMEs are made by scripts/readme.py.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.report.collect import collect, doubts, rows, table
from scripts.compose import ROOT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs")
    parser.add_argument("--scenario", default="glyphs_10tasks")
    parser.add_argument("--markdown", action="store_true")
    asked = parser.parse_args()
    found, passed_over = collect(asked.outputs)
    groups = rows(s for s in found if s["scenario"] == asked.scenario)
    for line in passed_over:
        print(f"passed over: {line}", file=sys.stderr)
    if not groups:
        print(f"error: no finished run of {asked.scenario} below {asked.outputs}; type python run.py first", file=sys.stderr)
        return 2
    print(table(groups, markdown=asked.markdown))
    for line in doubts(groups):
        print(f"impossible row: {line}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
