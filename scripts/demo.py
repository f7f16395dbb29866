"""Compare four methods on the offline benchmark with one seed (`make demo`).

python scripts/demo.py             # finished runs are not repeated
python scripts/demo.py --docs      # run all again and write the table into docs/
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.common.tables import fill
from cil.launch.compose import compose
from cil.report.collect import MEANING, collect, rows, table
from cil.report.documents.project import page_of
from cil.runs.run_folder import address

ROOT = Path(__file__).resolve().parent.parent
OUTPUTS = ROOT / "outputs" / "demo"
MEANS = {
    "finetune": "trains on each task in turn without any protection: the lower bound",
    "class_mean": "frozen backbone, nearest class mean; nothing is trained",
    "continual_clip": "zero-shot CLIP; nothing is trained",
    "joint": "trains once on the images of all tasks: the upper bound",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", action="store_true", help="run all again and write the table into docs/")
    documented = parser.parse_args().docs
    if documented:
        shutil.rmtree(OUTPUTS, ignore_errors=True)
    began = time.perf_counter()
    words = ["-m", f"method={','.join(MEANS)}", "scenario=glyphs_10tasks", "seed=0", f"outputs={OUTPUTS}"]
    print(f"python run.py {' '.join(words[:-1])}\n", flush=True)
    code = subprocess.run([sys.executable, ROOT / "run.py", *words], cwd=ROOT).returncode
    if code:
        return code
    wanted = {address(compose(f"method={method}", "scenario=glyphs_10tasks")) for method in MEANS}
    groups = rows(collect(OUTPUTS)[0], wanted)
    seconds = f"{time.perf_counter() - began:.0f} s"
    print(f"\nSplit-Glyphs: 100 characters in 10 tasks, percent correct, {seconds} in all\n")
    for group in groups:
        print(f"  {group[0]['method']:<15} {MEANS[group[0]['method']]}")
    print("\n  ACC: after the last task, over all tasks. forgetting: best earlier − last.")
    print("  BT: last − first. avg inc: mean of ACC over time. task-IL: the task is told.")
    print(f"  Plots: {OUTPUTS.relative_to(ROOT)}/*/*/*/*/pictures")
    if documented:
        rows_of_meaning = "\n".join(f"- `{group[0]['method']}` {MEANS[group[0]['method']]}" for group in groups)
        took = f"`make demo` ends with this table, {seconds} after the set-up on two CPU cores (one seed, percent correct):"
        fill(page_of(ROOT, "demo"), "demo", f"{took}\n\n{table(groups, markdown=True)}\n\n{rows_of_meaning}\n\n{MEANING}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
