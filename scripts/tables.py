"""The table of a scenario from its run folders.

python scripts/tables.py                                # every configuration found below outputs/
python scripts/tables.py --scenario glyphs_10tasks --markdown
python scripts/tables.py --readme                       # runs what is missing, then fills README.md's tables
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.report.collect import MEANING, collect, doubts, rows, table
from cil.report.table import fill, grid, number
from cil.rundir import address
from scripts.compose import ROOT, compose, options


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs")
    parser.add_argument("--scenario", default="glyphs_10tasks")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--readme", action="store_true", help="three seeds of every method, into README.md")
    parser.add_argument("--photographs", nargs="*", metavar="KEY=VALUE", help="the TinyImageNet rows, into README.md")
    asked = parser.parse_args()
    if asked.photographs is not None:
        return fill_photographs(asked.photographs)
    if asked.readme:
        return fill_readme(asked.scenario)
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


def fill_readme(scenario: str) -> int:
    """Run what is missing and write the tables."""
    methods, seeds = options("method"), range(3)
    words = [f"method={','.join(methods)}", f"scenario={scenario}", f"seed={','.join(map(str, seeds))}"]
    code = subprocess.run([sys.executable, ROOT / "run.py", "-m", *words], cwd=ROOT).returncode
    if code:
        return code
    wanted = {address(compose(f"method={m}", f"scenario={scenario}", f"seed={seed}")) for m in methods for seed in seeds}
    groups = rows(collect(ROOT / "outputs")[0], wanted)
    command = f"python run.py -m {words[0]} \\\n  {words[1]} {words[2]}"
    text = table(groups, markdown=True)
    fill(ROOT / "README.md", "results", f"{text}\n\n{MEANING} `make tables` made it, from\n\n```\n{command}\n```")
    fill(ROOT / "README.md", "pretraining", pretraining())
    print(table(groups))
    return 0


def fill_photographs(settings: list[str]) -> int:
    """Run what is missing of experiment=tinyimagenet_small and write its table with its identity."""
    words = ["experiment=tinyimagenet_small", *settings]
    code = subprocess.run([sys.executable, ROOT / "run.py", "-m", *words, "method=finetune,joint"], cwd=ROOT).returncode
    if code:
        return code
    runs = [address(compose(*words, f"method={method}")) for method in ("finetune", "joint")]
    text = table(rows(collect(ROOT / "outputs")[0], set(runs)), markdown=True)
    identity = json.loads((ROOT / "outputs" / runs[-1] / "summary.json").read_text())["identity"]
    known = [f"{key.replace('_', ' ')} `{identity[key]}`" for key in ("data_digest", "order_digest", "split_digest")]
    seen = f"Trained on: {identity['train_transform']}. Tested on: {identity['test_transform']}."
    command = f"python scripts/tables.py --photographs {' '.join(settings)}".strip()
    told = f"One seed, from scratch; {', '.join(known)}; runs `{'`, `'.join(runs)}`. {seen}"
    fill(ROOT / "README.md", "photographs", f"{text}\n\n{told} `{command}` made it.")
    print(text)
    return 0


def pretraining() -> str:
    """What the records of the shipped weights say."""
    head = ["weights", "nearest class mean", "zero-shot by name", "minutes", "threads", "command"]
    lines = []
    for file in sorted((ROOT / "cil" / "weights").glob("*.json")):
        record = json.loads(file.read_text())
        percent = [number(record["percent_on_the_benchmark"].get(key)) for key in head[1:3]]
        command = f"`{record['command'].removeprefix('python scripts/pretrain.py ')}`"
        lines.append([file.stem, *percent, f"{record['seconds'] / 60:.0f}", str(record["threads"]), command])
    text = "Percent correct on the 100 classes. The commands go on from `python scripts/pretrain.py`."
    return f"{grid(head, lines, markdown=True)}\n\n{text}"


if __name__ == "__main__":
    sys.exit(main())
