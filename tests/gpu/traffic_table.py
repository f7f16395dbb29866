"""What a step and a test batch of each method move and wait for on the pretended GPU, as a table of docs/results/gpu.md.

python -m tests.gpu.traffic_table --json now.json                     # measure this checkout
python -m tests.gpu.traffic_table --page docs/results/gpu.md --before docs/results/traffic_before.json
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from cil.engine import build
from tests import harness
from tests.gpu.on_pretended_gpu import run_of
from tests.gpu.test_on_a_gpu import cases
from tests.methods.test_contract import SCRATCH

SMALL = ("scenario=glyphs_10tasks", "train.epochs=1", "train.batch_size=16", "dataset.test_per_class=4")
MEMORY = "method.memory=100"
COLUMNS = ("copies a step", "waits a step", "kernels a step", "waits a test batch")


def measured(case: tuple[str, ...], folder: Path) -> dict[str, int]:
    words = [MEMORY if word.startswith("method.memory=") else word for word in SCRATCH.get(case[0], [()])[0]]
    images = 20 if "modifier=pgp" in case and "reading=released" in case else 4  # as many a task as a token is wide
    config = harness.compose(f"method={case[0]}", *harness.SMALL, *SMALL, *words, f"data.root={folder}",
                             f"dataset.train_per_class={images}", *case[1:])  # fmt: skip
    build_scenario = build.build_scenario

    def two_tasks(*given):
        scenario = build_scenario(*given)
        scenario.sizes = scenario.sizes[:2]
        return scenario

    build.build_scenario = two_tasks
    try:
        with tempfile.TemporaryDirectory() as run:
            _, seen = run_of(config, Path(run))
    finally:
        build.build_scenario = build_scenario
    copies = [seen.total(of, kind) for of in ("batch", "step") for kind in ("to device", "from device")]
    waits = seen.total("batch", "wait") + seen.total("step", "wait")
    return dict(zip(COLUMNS, (sum(copies), waits, seen.kernels, seen.total("evaluation", "wait") // 2)))


def table(before: dict, now: dict) -> str:
    """Markdown; a method whose run ended in an error has its first words in the place of numbers."""
    lines = [f"| method | {' | '.join(COLUMNS)} |", f"| --- | {' | '.join('---:' for _ in COLUMNS)} |"]
    for case in now:
        cells = []
        for column in COLUMNS:
            old = before.get(case, {}).get(column, "fails")
            new = now[case].get(column, "fails")
            cells.append(str(new) if old == new else f"{old} → {new}")
        lines.append(f"| `{case}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--before", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases():
            try:
                found[" ".join(case)] = measured(case, Path(folder))
            except RuntimeError as error:
                found[" ".join(case)] = {"error": str(error).splitlines()[0]}
            except KeyError as error:
                found[" ".join(case)] = {"error": f"KeyError {error}"}
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    if given.page:
        start, end = "<!-- traffic -->", "<!-- /traffic -->"
        head, rest = given.page.read_text().split(start)
        before = json.loads(given.before.read_text()) if given.before else {}
        given.page.write_text(f"{head}{start}\n{table(before, found)}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    main()
