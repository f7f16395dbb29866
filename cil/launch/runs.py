"""Helpers that run sweeps and read their summaries, for the scripts that make tables."""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from cil.common import places
from cil.common.errors import UserError
from cil.launch.compose import compose
from cil.runs.run_folder import RunDir, address

OUTPUTS = places.outputs().absolute()
RUN = [sys.executable, "-m", "cil"]


def run(*words: str) -> None:
    """Run a sweep; finished runs are not repeated."""
    if subprocess.run([*RUN, "-m", *words], env=places.importable()).returncode:
        raise UserError(f"a run failed; type python run.py -m {' '.join(words)} to see why")


def side_by_side(sweeps: Sequence[list[str]], on: str = "here") -> list[str]:
    """Run several sweeps at once and return the error lines of those that failed.

    On this machine there is one process per core, each with one thread, since small networks gain little from more threads.
    """
    more = ["log.live=false"] if on == "here" else [f"hydra/launcher={on}"]
    own = places.importable() | ({"OMP_NUM_THREADS": "1"} if on == "here" else {})

    def run(sweep: list[str]) -> str | None:
        sys.stderr.write(f"python run.py -m {' '.join(sweep)}\n")  # one write, since other threads write too
        command = [*RUN, "-m", *sweep, *more]
        done = subprocess.run(command, env=own, capture_output=True, text=True)
        if not done.returncode:
            return None
        errors = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
        return errors[-1] if errors else f"a run failed; type python run.py -m {' '.join(sweep)} to see why"

    at_once = {"here": workers(), "submitit_slurm": max(1, len(sweeps))}.get(on, 1)  # a launcher here: one by one
    with ThreadPoolExecutor(at_once) as pool:
        return [line for line in pool.map(run, sweeps) if line]


def workers() -> int:
    """How many runs fit on this machine at once: one per GPU, or one per core without a GPU."""
    import torch

    return torch.cuda.device_count() or len(os.sched_getaffinity(0))


def found(*words: str, seeds: range) -> list[dict]:
    """The summaries of the finished runs of one configuration, one for each seed."""
    places = [OUTPUTS / address(compose(*words, f"seed={seed}")) for seed in seeds]
    return [RunDir(place).summary() for place in places]
