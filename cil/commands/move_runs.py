"""Move run folders to the address that their configuration has in this version.

python scripts/move_runs.py                # all runs below outputs/
python scripts/move_runs.py --outputs DIR --dry

The address of a run contains a hash of its configuration. If a version of this
project computes it differently (CHANGELOG.md says so under *Numbers*), finished
runs are found again after their folders are moved. If code has moved,
config.yaml is updated to name its new module. Nothing is run again.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import yaml

from cil.common import places
from cil.common.errors import UserError
from cil.common.files import write_text
from cil.launch.compose import guarded
from cil.runs.run_folder import RunDir, address, digest, with_targets

MARK = "relabelling"  # a file that exists while the results of a folder are rewritten
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
    parser.add_argument("--outputs", type=Path, default=places.outputs(), help="the folder of the runs")
    parser.add_argument("--dry", action="store_true", help="only print what would be moved")
    asked = parser.parse_args()
    return guarded(lambda: print("\n".join(moved(asked.outputs, dry=asked.dry)) or "every run is at its address"))


def moved(outputs: Path, *, dry: bool) -> Iterator[str]:
    """Move runs that are not at their address and update moved code in config.yaml; yields a line for each such folder."""
    if not outputs.is_dir():
        raise UserError(f"there is no folder {outputs}; type --outputs DIR")
    for file in sorted(outputs.glob("*/*/*/seed*/config.yaml")):
        folder, config = file.parent, yaml.safe_load(file.read_text())
        old = str(folder.relative_to(outputs))
        try:
            new = address(config)
        except (KeyError, TypeError, AttributeError, UserError) as error:
            yield f"{old}: left, since its config.yaml is not that of a run ({type(error).__name__})"
            continue
        current = with_targets(config, target)
        if old == new and current == config and not (folder / MARK).exists():
            continue
        if old != new and (outputs / new).exists():
            yield f"{old}: left, since {new} is there already"
            continue
        if not dry:
            try:
                with RunDir(folder).open(config):  # locks the folder
                    relabel(folder, current)
                    if old != new:
                        (outputs / new).parent.mkdir(parents=True, exist_ok=True)
                        folder.rename(outputs / new)
            except UserError as error:
                yield f"{old}: left; {error}"
                continue
            for parent in (folder.parent, folder.parent.parent):
                with suppress(OSError):  # the folder has other runs
                    parent.rmdir()
        yield f"{old} → {new}" if old != new else f"{old}: config.yaml names the code where it lies now"


def target(path: str | None) -> str | None:
    """A `_target_` in its current module."""
    return next((new + path.removeprefix(old) for old, new in MOVED.items() if path and path.startswith(old)), path)


def relabel(folder: Path, config: dict) -> None:
    """Write the configuration, and the new address into the summary of a finished run. A later call resumes after a kill."""
    run, mark = RunDir(folder), folder / MARK
    finished = run.is_done
    if finished and not mark.exists():
        run.summary()  # raises an error if the results were damaged before
        mark.touch()
    write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    if finished:
        summary = json.loads((folder / "summary.json").read_text())
        run.finish(summary | {"digest": digest(config), "address": address(config)})
        mark.unlink()
