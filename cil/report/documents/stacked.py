"""Documentation block on runs that are trained in one pass: kernels of a step, and the CPU time of whole sweeps."""

import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from cil.common.errors import UserError
from cil.common.tables import grid
from cil.report.documents.project import Project, listed
from cil.runs.run_folder import RunDir

STEPS = ("l2p", "dualprompt", "dualprompt, half with pgp", "coda_prompt")
VIT_B = ["backbone=vit_b16_in21k", "backbone.weights=null", "backbone.sha256=null", "backbone.image.size=64",
         "scenario=glyphs_10tasks", "augment=random_resized_crop", "dataset.train_per_class=2", "train.batch_size=4",
         "machine=cpu"]  # fmt: skip
SWEEPS = ("l2p", "dualprompt", "coda_prompt", "finetune, head only", "clip_prompt", "coop", "attriclip", "rapf", "awpf")
MORE = {"half with pgp": ["modifier=pgp"], "head only": ["method.learn=head"]}  # settings of a row
SMALL = ["scenario=glyphs_10tasks", "dataset.train_per_class=20", "dataset.test_per_class=5", "train.epochs=1",
         "data.features=null", "machine=cpu", "log.live=false"]  # fmt: skip
RUNS = (2, 5)
LAUNCHERS = ("basic", "stacked")


def stacked(at: Project, settings: list[str]) -> str:
    """Tables of kernels and of CPU time; both are measured now."""
    return (
        f"{kernels(at, settings)}\n\nKernels of a step at the depth of ViT-B/16 (64 px), relative to those of one run: "
        f"`python scripts/bench.py stack method=… {' '.join(VIT_B)}`.\n\n{sweeps(at, settings)}\n\n"
        f"CPU time of a whole sweep, from the command to its end, with one thread: `python run.py -m method=… "
        f"seed={listed(range(max(RUNS)))} {' '.join(SMALL)}` with `hydra/launcher=stacked`, relative to the same without it. "
        "ACC is the mean over the seeds. Both sweeps run at the same time on one core, so that whatever slows one slows both. "
        "`python scripts/fill_docs.py stacked` measures both tables."
    )


def kernels(at: Project, settings: list[str]) -> str:
    lines = []
    for name in STEPS:
        rows = at.bench("stack", "--rounds", "1", *typed(name), *VIT_B, *settings)
        lines.append([name, str(rows[0]["kernels"]), *(f"{row['kernels_ratio']:.2f}" for row in rows[1:])])
    return grid(["a step of", "one run", "2 runs", "5 runs", "10 runs"], lines, markdown=True)


def sweeps(at: Project, settings: list[str]) -> str:
    lines = []
    for name in SWEEPS:
        cells: list[str] = []
        for runs in RUNS:
            alone, together = measured(at, runs, *typed(name), *SMALL, *settings)
            cells += [f"{together.cpu / alone.cpu:.2f}"]
        cells += [f"{alone.cpu:.0f}", f"{together.cpu:.0f}", f"{alone.acc:.2f}", f"{together.acc:.2f}"]
        lines.append([name, *cells])
    most = max(RUNS)
    head = ["method", *(f"{runs} runs, ratio" for runs in RUNS), f"CPU s of {most}, one by one", "in one pass",
            "ACC, one by one", "in one pass"]  # fmt: skip
    return grid(head, lines, markdown=True)


def typed(row: str) -> list[str]:
    method, _, more = row.partition(", ")
    return [f"method={method}", *MORE.get(more, ())]


class Measured(NamedTuple):
    """A sweep: the CPU seconds of its process, and the mean accuracy of its runs."""

    cpu: float
    acc: float


def measured(at: Project, runs: int, *words: str) -> list[Measured]:
    """Measure a sweep one by one and in one pass, both at the same time on one core: whatever slows one slows both."""
    cores, sweep = os.sched_getaffinity(0), [*words, f"seed={listed(range(runs))}"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    quiet["env"] = os.environ | {"OMP_NUM_THREADS": "1"}
    with TemporaryDirectory() as folder:
        own = {name: [f"hydra/launcher={name}", f"outputs={folder}/{name}"] for name in LAUNCHERS}
        os.sched_setaffinity(0, {max(cores)})  # of the processes that begin here
        begun = [subprocess.Popen([sys.executable, str(at.root / "run.py"), "-m", *sweep, *own[name]], **quiet) for name in own]
        os.sched_setaffinity(0, cores)
        seconds = [process_seconds(process) for process in begun]
        found = [[RunDir(done.parent).summary() for done in Path(folder, name).rglob("DONE")] for name in LAUNCHERS]
    if any(len(own) != runs for own in found):
        raise UserError(f"not all runs are finished; type python run.py -m {' '.join(words)} to see why")
    return [Measured(cpu, fmean(run["class_il"]["acc"] for run in own)) for cpu, own in zip(seconds, found, strict=True)]


def process_seconds(process: subprocess.Popen) -> float:
    """Wait for the end of a process, and return the time that it and its own processes have computed."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime
