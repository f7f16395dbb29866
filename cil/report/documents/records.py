"""Documentation blocks on recorded results: pre-training of the shipped weights, packed text, photographs, random tests."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator

from cil.common.errors import UserError
from cil.common.tables import grid, number
from cil.report.collect import collect, rows, table
from cil.report.documents.project import Project
from cil.runs.run_folder import RunDir, address


def pretraining(at: Project) -> str:
    """The table of the records of the shipped weights."""
    head = ["weights", "nearest class mean", "zero-shot by name", "minutes", "threads", "command"]
    lines = []
    for file in sorted((at.root / "cil" / "weights").glob("*.json")):
        record = json.loads(file.read_text())
        percent = [number(record["percent_on_the_benchmark"].get(key)) for key in head[1:3]]
        command = f"`{record['command'].removeprefix('python scripts/pretrain.py ')}`"
        lines.append([file.stem, *percent, f"{record['seconds'] / 60:.0f}", str(record["threads"]), command])
    text = "Percent correct on the 100 classes. Put `python scripts/pretrain.py` before each of the settings."
    return f"{grid(head, lines, markdown=True)}\n\n{text}"


def text(at: Project, settings: list[str]) -> None:
    """Fill the block with the output of `scripts/bench.py text` as a table."""
    found = at.bench("text", "--rounds", "1")
    lines = [[row["what"], f"{row['times_faster']:.1f}", f"{row['seconds']:.2f}"] for row in found]
    at.fill("text", grid(["what", "times faster", "seconds"], lines, markdown=True))


def photographs(at: Project, settings: list[str]) -> None:
    """Run experiment=tinyimagenet_small, and fill its block with results and identity."""
    words = ["experiment=tinyimagenet_small", *settings]
    at.run(*words, "method=finetune,joint")
    runs = [address(at.compose(*words, f"method={method}")) for method in ("finetune", "joint")]
    text = table(rows(collect(at.outputs)[0], set(runs)), markdown=True)
    identity = RunDir(at.outputs / runs[-1]).summary()["identity"]
    known = [f"{key.replace('_', ' ')} `{identity[key]}`" for key in ("data_digest", "order_digest", "split_digest")]
    transforms = f"Trained on: {identity['train_transform']}. Tested on: {identity['test_transform']}."
    command = f"python scripts/fill_docs.py photographs {' '.join(settings)}".strip()
    note = f"One seed, from scratch; {', '.join(known)}; runs `{'`, `'.join(runs)}`. {transforms}"
    at.fill("photographs", f"{text}\n\n{note} Made by `{command}`.")
    print(text)


def fuzz(at: Project, settings: list[str]) -> None:
    """Fill the block on reliability with the results of the random tests that `make fuzz` recorded."""
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
    at.fill("fuzz", f"{grid(['what', 'tried', 'outcome'], list(outcomes(sums)), markdown=True)}\n\nMade by `make fuzz`.")


def outcomes(sums: dict[str, Counter]) -> Iterator[list[str]]:
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
