"""Why is my number different? Compare two finished runs.

python scripts/why.py RUN_A RUN_B        # run folders, as printed at the end of a run
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="a run folder")
    runs = parser.parse_args().runs
    for run in runs:
        if not (run / "DONE").exists():
            print(f"error: {run} is not a finished run (it has no DONE); give the folder that run.py printed", file=sys.stderr)
            return 2

    from cil.report.why import explain

    for line in explain(*runs):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
