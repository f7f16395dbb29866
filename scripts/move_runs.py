"""Move run folders to the address that their configuration has today.

python scripts/move_runs.py                # below outputs/; what it does is printed
python scripts/move_runs.py --outputs DIR --dry

An address holds a digest of the configuration. Where a version of this project computes it in another way (CHANGELOG.md says so
under *Numbers*), finished runs are found again once their folders have been moved. Nothing is recomputed.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.mistakes import Mistake
from cil.rundir import RunDir, address, digest
from scripts.compose import ROOT, guarded


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs")
    parser.add_argument("--dry", action="store_true", help="only print what would be moved")
    asked = parser.parse_args()
    return guarded(lambda: print("\n".join(moved(asked.outputs, dry=asked.dry)) or "every run lies at its address"))


def moved(outputs: Path, *, dry: bool) -> Iterator[str]:
    """Moves what does not lie at its address; a line for each such folder."""
    for file in sorted(outputs.glob("*/*/*/seed*/config.yaml")):
        folder, config = file.parent, yaml.safe_load(file.read_text())
        old = str(folder.relative_to(outputs))
        try:
            new = address(config)
        except (KeyError, TypeError, AttributeError, Mistake) as error:
            yield f"{old}: left, since its config.yaml is not that of a run ({type(error).__name__})"
            continue
        if old == new:
            continue
        if (outputs / new).exists():
            yield f"{old}: left, since {new} is there already"
            continue
        if not dry:
            try:
                with RunDir(folder).open(config):  # nobody runs it meanwhile
                    relabel(folder, config)
                    (outputs / new).parent.mkdir(parents=True, exist_ok=True)
                    folder.rename(outputs / new)
            except Mistake as mistake:
                yield f"{old}: left; {mistake}"
                continue
            for parent in (folder.parent, folder.parent.parent):
                with suppress(OSError):  # another run is in it
                    parent.rmdir()
        yield f"{old} → {new}"


def relabel(folder: Path, config: dict) -> None:
    """The summary of a finished run says its address too."""
    run = RunDir(folder)
    if run.is_done:
        run.finish(run.summary() | {"digest": digest(config), "address": address(config)})


if __name__ == "__main__":
    sys.exit(main())
