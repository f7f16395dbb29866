"""Documentation block on runs that are trained in one pass: kernels of a step, and the CPU time of whole sweeps."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from cil.common.tables import grid
from cil.report.documents.project import Project, listed
from cil.runs.run_folder import RunDir

STEPS = {
    "l2p": ["method=l2p"],
    "dualprompt": ["method=dualprompt"],
    "dualprompt, half with pgp": ["method=dualprompt", "modifier=pgp"],
    "coda_prompt": ["method=coda_prompt"],
}
VIT_B = ["backbone=vit_b16_in21k", "backbone.weights=null", "backbone.sha256=null", "backbone.image.size=64",
         "scenario=glyphs_10tasks", "augment=random_resized_crop", "dataset.train_per_class=2", "train.batch_size=4",
         "machine=cpu"]  # fmt: skip
SWEEPS = {
    "l2p": ["method=l2p"],
    "dualprompt": ["method=dualprompt"],
    "coda_prompt": ["method=coda_prompt"],
    "finetune, head only": ["method=finetune", "method.learn=head"],
    "clip_prompt": ["method=clip_prompt"],
    "coop": ["method=coop"],
    "attriclip": ["method=attriclip"],
    "rapf": ["method=rapf", "augment.train.crop=whole"],
    "awpf": ["method=awpf", "augment.train.crop=whole"],
}
SMALL = ["scenario=glyphs_10tasks", "dataset.train_per_class=20", "dataset.test_per_class=5", "train.epochs=1",
         "data.features=null", "machine=cpu", "log.live=false"]  # fmt: skip
SEEDS = range(5)


def stacked(at: Project, settings: list[str]) -> str:
    """Tables of kernels and of CPU time; both are measured now."""
    return (
        f"{kernels(at, settings)}\n\nKernels of a step at the depth of ViT-B/16 (64 px), relative to those of one run: "
        f"`python scripts/bench.py stack method=… {' '.join(VIT_B)}`.\n\n{sweeps(at, settings)}\n\n"
        f"Five seeds, from the command to its end: `python run.py -m method=… seed={listed(SEEDS)} {' '.join(SMALL)}`, without "
        "and with `hydra/launcher=stacked`. ACC is the mean over the seeds."
    )


def kernels(at: Project, settings: list[str]) -> str:
    lines = []
    for name, words in STEPS.items():
        own = [sys.executable, str(at.root / "scripts" / "bench.py"), "stack", "--rounds", "1", *words, *VIT_B, *settings]
        done = subprocess.run(own, capture_output=True, text=True, check=True)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        lines.append([name, str(rows[0]["kernels"]), *(f"{row['kernels_ratio']:.2f}" for row in rows[1:])])
    return grid(["a step of", "one run", "2 runs", "5 runs", "10 runs"], lines, markdown=True)


def sweeps(at: Project, settings: list[str]) -> str:
    lines = []
    for name, words in SWEEPS.items():
        found = [timed(at, *words, *SMALL, *settings, *more) for more in ([], ["hydra/launcher=stacked"])]
        (alone, one), (together, other) = found
        lines.append([name, f"{alone:.0f}", f"{together:.0f}", f"{together / alone:.2f}", f"{one:.1f}", f"{other:.1f}"])
    head = ["five seeds of", "CPU s one by one", "CPU s in one pass", "ratio", "ACC one by one", "ACC in one pass"]
    return grid(head, lines, markdown=True)


def timed(at: Project, *words: str) -> tuple[float, float]:
    """The CPU seconds of a sweep in a folder of its own, and the mean accuracy of its runs."""
    with TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, str(at.root / "run.py"), "-m", *words, f"seed={listed(SEEDS)}", f"outputs={folder}"]
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        runs = [RunDir(done.parent).summary() for done in Path(folder).rglob("DONE")]
        assert len(runs) == len(SEEDS)
        return after.ru_utime - before.ru_utime, fmean(run["class_il"]["acc"] for run in runs)
