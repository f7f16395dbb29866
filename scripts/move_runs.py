"""Move run folders to the address that their configuration has today.

python scripts/move_runs.py                # below outputs/; what it does is printed
python scripts/move_runs.py --outputs DIR --dry

An address holds a digest of the configuration. Where a version of this project computes it in another way (CHANGELOG.md says so
under *Numbers*), finished runs are found again once their folders have been moved. Where code has moved, config.yaml is made to
name its new place. Nothing is recomputed.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.common.errors import UserError
from cil.common.files import write_text
from cil.runs.run_folder import RunDir, address, digest
from scripts.compose import ROOT, guarded

MARK = "relabelling"  # a file in a folder whose results are being written anew
MOVED = {
    "cil.augment.": "cil.data.transforms.views.",
    "cil.datasets.": "cil.data.datasets.",
    "cil.log.": "cil.runs.console.",
    "cil.mirrors.": "cil.runs.loggers.",
    "cil.optimizer.": "cil.optim.optimizers.",
    "cil.scenario.": "cil.data.scenario.",
    "cil.schedule.": "cil.optim.schedules.",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs")
    parser.add_argument("--dry", action="store_true", help="only print what would be moved")
    asked = parser.parse_args()
    return guarded(lambda: print("\n".join(moved(asked.outputs, dry=asked.dry)) or "every run lies at its address"))


def moved(outputs: Path, *, dry: bool) -> Iterator[str]:
    """Moves what does not lie at its address and renames moved code in config.yaml; a line for each such folder."""
    for file in sorted(outputs.glob("*/*/*/seed*/config.yaml")):
        folder, config = file.parent, yaml.safe_load(file.read_text())
        old = str(folder.relative_to(outputs))
        try:
            new = address(config)
        except (KeyError, TypeError, AttributeError, UserError) as error:
            yield f"{old}: left, since its config.yaml is not that of a run ({type(error).__name__})"
            continue
        today = renamed(config)
        if old == new and today == config and not (folder / MARK).exists():
            continue
        if old != new and (outputs / new).exists():
            yield f"{old}: left, since {new} is there already"
            continue
        if not dry:
            try:
                with RunDir(folder).open(config):  # nobody runs it meanwhile
                    relabel(folder, today)
                    if old != new:
                        (outputs / new).parent.mkdir(parents=True, exist_ok=True)
                        folder.rename(outputs / new)
            except UserError as error:
                yield f"{old}: left; {error}"
                continue
            for parent in (folder.parent, folder.parent.parent):
                with suppress(OSError):  # another run is in it
                    parent.rmdir()
        yield f"{old} → {new}" if old != new else f"{old}: config.yaml names the code where it lies now"


def renamed(node: object) -> object:
    """The configuration with every `_target_` where its module lies today."""
    if isinstance(node, list):
        return [renamed(value) for value in node]
    if not isinstance(node, dict):
        return node
    return {key: target(value) if key == "_target_" else renamed(value) for key, value in node.items()}


def target(path: str | None) -> str | None:
    return next((new + path.removeprefix(old) for old, new in MOVED.items() if path and path.startswith(old)), path)


def relabel(folder: Path, config: dict) -> None:
    """Write the configuration, and into the summary of a finished run its address. After a kill, the next call goes on."""
    run, mark = RunDir(folder), folder / MARK
    finished = run.is_done
    if finished and not mark.exists():
        run.summary()  # refuses results that were damaged before
        mark.touch()
    write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    if finished:
        summary = json.loads((folder / "summary.json").read_text())
        run.finish(summary | {"digest": digest(config), "address": address(config)})
        mark.unlink()


if __name__ == "__main__":
    sys.exit(main())
