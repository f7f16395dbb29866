"""What the documentation needs of the project: its folders, and functions that compose, start and find runs."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cil.common.errors import UserError
from cil.common.files import write_text
from cil.common.tables import fill
from cil.runs.run_folder import RunDir


@dataclass(frozen=True)
class Project:
    """Folders and functions of the project. `scripts/fill_docs.py` makes it, so that this package imports no script."""

    root: Path
    outputs: Path
    compose: Callable[..., dict]  # arguments of a command line → configuration
    options: Callable[[str], list[str]]  # a group → the names of its files
    swept: Callable[[str], dict[str, list[str]]]  # an experiment → the settings that it sweeps over
    run: Callable[..., None]  # arguments of a sweep → runs it; finished runs are skipped
    found: Callable[..., list[dict]]  # arguments, seeds=… → summaries of one configuration
    side_by_side: Callable[..., list[str]]  # sweeps → the error lines of those that failed
    workers: Callable[[], int]
    draw: Callable[..., None]  # a run folder → its pictures
    nonlocality: Callable[[Path], list[list[float]]]
    swept_table: Callable[..., str]  # an experiment, its summaries, markdown → a table

    @property
    def pictures(self) -> Path:
        return self.root / "docs" / "pictures"

    def fill(self, block: str, content: str) -> None:
        fill(page_of(self.root, block), block, content)

    def printed(self, script: str, *words: str) -> str:
        """What a script of the project prints with these arguments."""
        command = [sys.executable, script, *words]
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True).stdout

    def bench(self, *words: str) -> list[dict]:
        """The rows that `scripts/bench.py` prints."""
        return [json.loads(line) for line in self.printed("scripts/bench.py", *words).splitlines()]

    def events(self, summary: dict) -> list[dict]:
        """The record of a finished run."""
        return [json.loads(line) for line in RunDir(self.outputs / summary["address"]).events.read_text().splitlines()]

    def kept(self, block: str, place: str, numbers: Callable[[dict], Any]) -> Any:
        """What a table needs of the run at this address: `numbers` of its summary if it is finished here, or what was kept in
        docs/results/BLOCK.json when it was; None if neither.

        Run folders stay out of the repository. With the numbers, a table of many hours can grow over several machines.
        """
        file, run = self.root / "docs" / "results" / f"{block}.json", RunDir(self.outputs / place)
        kept = json.loads(file.read_text()) if file.exists() else {}
        if run.is_done and kept.get(place) != (own := numbers(run.summary())):
            kept[place] = own
            write_text(file, "{\n" + ",\n".join(f'"{key}": {json.dumps(kept[key])}' for key in sorted(kept)) + "\n}\n")
        return kept.get(place)


def pages(root: Path) -> list[Path]:
    """README.md and all pages in docs/."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def page_of(root: Path, block: str) -> Path:
    """The one page with the markers of a block, found by searching, so that a block may move to another page."""
    having = [page for page in pages(root) if f"<!-- {block} -->" in page.read_text()]
    if len(having) != 1:
        raise UserError(f"{len(having)} pages hold the block {block}, where one is expected; write <!-- {block} --> and "
                        f"<!-- /{block} --> on one page in docs/")  # fmt: skip
    return having[0]


def listed(values: Iterable) -> str:
    return ",".join(map(str, values))
