"""The methods on the offline benchmark, one seed, and what their numbers mean. `make demo` calls this."""

import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.report.collect import collect, rows, table
from cil.rundir import address
from scripts.compose import ROOT, compose

OUTPUTS = ROOT / "outputs" / "demo"
MEANS = {
    "finetune": "goes on training on each task alone; forgets, and is the lower bound",
    "class_mean": "frozen backbone, nearest class mean; nothing is trained",
    "continual_clip": "zero-shot CLIP by the classes' names; nothing is trained, nothing forgotten",
    "joint": "trained once on the images of all tasks together; the upper bound",
}


def main() -> int:
    began = time.perf_counter()
    words = ["-m", f"method={','.join(MEANS)}", "scenario=glyphs_10tasks", "seed=0", f"outputs={OUTPUTS}"]
    print(f"python run.py {' '.join(words[:-1])}\n", flush=True)
    code = subprocess.run([sys.executable, ROOT / "run.py", *words], cwd=ROOT).returncode
    if code:
        return code
    wanted = {address(compose(f"method={method}", "scenario=glyphs_10tasks")) for method in MEANS}
    groups = rows(collect(OUTPUTS)[0], wanted)
    print(f"\nSplit-Glyphs: 100 characters in 10 tasks, percent correct, {time.perf_counter() - began:.0f} s in all\n")
    print(table(groups))
    print()
    for group in groups:
        print(f"  {group[0]['method']:<15} {MEANS[group[0]['method']]}")
    print("\n  ACC: after the last task, over all tasks.  forgetting: best earlier − last.  BT: last − first.")
    print(f"  avg inc: mean of ACC over time.  task-IL: the task is told.  Plots: {OUTPUTS.relative_to(ROOT)}/*/*/*/*/pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
