"""Documentation block on reliability: the results of the random tests that `make fuzz` recorded."""

import json
from collections import Counter, defaultdict

from cil.common.errors import UserError
from cil.common.tables import grid
from cil.report.documents.project import Project


def fill_fuzz(at: Project, settings: list[str]) -> None:
    file = at.outputs / "fuzz.jsonl"
    if not file.is_file():
        raise UserError(f"{file} does not exist; type make fuzz, which writes it")
    sums: dict[str, Counter] = defaultdict(Counter)
    for line in file.read_text().splitlines():
        counts = json.loads(line)
        kind = counts.pop("what")
        if kind.startswith("kills of "):
            counts, kind = counts | {"methods": 1}, "kills"
        sums[kind].update(counts)
    at.fill("fuzz", f"{grid(['what', 'tried', 'outcome'], list(_lines(sums)), markdown=True)}\n\nMade by `make fuzz`.")


def _lines(sums: dict[str, Counter]):
    for kind, found in sorted(sums.items()):
        if kind == "command lines":
            yield ["meaningless command lines", f"{found['tried']:,}", f"{found['otherwise']} without a one-line error message"]
        elif kind == "kills":
            yield [f"kills and signals, {found['methods']} methods", f"{found['tried']:,}", "all bit-identical after resuming"]
        elif kind == "few images":
            low = f"{found['low']} ended below chance or below half the accuracy of class means"
            yield ["runs on few images", f"{found['runs']:,}", f"{low}, {found['marked']} of these with a warning"]
        else:
            others = "recorded with another digest" if "unknown" in kind else "read unchanged or rebuilt"
            outcome = f"{found['refused']:,} rejected, the others {others}; {found['otherwise']} with another outcome"
            yield [f"{kind} with changed bytes", f"{found['tried']:,}", outcome]
