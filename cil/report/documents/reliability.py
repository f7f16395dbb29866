"""The table of docs/reliability.md, from what `make fuzz` recorded."""

import json
from collections import Counter, defaultdict

from cil.common.errors import UserError
from cil.common.tables import grid
from cil.report.documents.project import Project


def fill_fuzz(at: Project, settings: list[str]) -> None:
    file = at.outputs / "fuzz.jsonl"
    if not file.is_file():
        raise UserError(f"{file} is not there; type make fuzz, which writes it")
    sums: dict[str, Counter] = defaultdict(Counter)
    for line in file.read_text().splitlines():
        told = json.loads(line)
        kind = told.pop("what")
        if kind.startswith("kills of "):
            told, kind = told | {"methods": 1}, "kills"
        sums[kind].update(told)
    at.fill("fuzz", f"{grid(['what', 'tried', 'outcome'], list(_lines(sums)), markdown=True)}\n\n`make fuzz` made it.")


def _lines(sums: dict[str, Counter]):
    for kind, found in sorted(sums.items()):
        if kind == "command lines":
            yield [
                "command lines that make no sense",
                f"{found['tried']:,}",
                f"{found['otherwise']} not refused in one sentence",
            ]
        elif kind == "kills":
            yield [f"kills and signals, {found['methods']} methods", f"{found['tried']:,}", "all ended with the same bits"]
        elif kind == "few images":
            marked = f"{found['low']} ended below chance or below half of class means, {found['marked']} of them with a warning"
            yield ["runs on few images", f"{found['runs']:,}", marked]
        else:
            others = "recorded with another digest" if "unknown" in kind else "read unchanged or made again"
            outcome = f"{found['refused']:,} refused, the others {others}; {found['otherwise']} otherwise"
            yield [f"{kind} with changed bytes", f"{found['tried']:,}", outcome]
