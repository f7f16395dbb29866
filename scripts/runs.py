"""Sweeps and their summaries, for the scripts that make tables."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob

from cil.common.errors import UserError
from cil.runs.run_folder import RunDir, address
from scripts.compose import ROOT, compose, swept

OUTPUTS = ROOT / "outputs"


def run(*words: str) -> None:
    """A sweep; what is finished is not repeated."""
    if subprocess.run([sys.executable, ROOT / "run.py", "-m", *words], cwd=ROOT).returncode:
        raise UserError(f"a run failed; type python run.py -m {' '.join(words)} to see why")


def side_by_side(sweeps: Sequence[list[str]], on: str = "here") -> list[str]:
    """The lines of those that failed. Here as many at a time as there are cores, each with one thread, since small networks
    gain little from more; on a cluster all at once."""
    more = ["log.live=false"] if on == "here" else [f"hydra/launcher={on}"]
    own = {**os.environ, "OMP_NUM_THREADS": "1"} if on == "here" else {**os.environ}

    def run(sweep: list[str]) -> str | None:
        sys.stderr.write(f"python run.py -m {' '.join(sweep)}\n")  # at once, newline and all: others write too
        command = [sys.executable, ROOT / "run.py", "-m", *sweep, *more]
        done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True)
        if not done.returncode:
            return None
        told = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
        return told[-1] if told else f"a run failed; type python run.py -m {' '.join(sweep)} to see why"

    at_once = {"here": workers(), "submitit_slurm": max(1, len(sweeps))}.get(on, 1)  # a launcher of this machine takes it all
    with ThreadPoolExecutor(at_once) as pool:
        return [line for line in pool.map(run, sweeps) if line]


def workers() -> int:
    """One a core, or one a GPU."""
    import torch

    return torch.cuda.device_count() or len(os.sched_getaffinity(0))


def found(*words: str, seeds: range) -> list[dict]:
    """The summaries of one configuration, by seed."""
    places = [OUTPUTS / address(compose(*words, f"seed={seed}")) for seed in seeds]
    return [RunDir(place).summary() for place in places]


def spelled(sweep: list[str]) -> list[list[str]]:
    """The command lines that a sweep stands for."""
    keys, values = zip(*(word.split("=", 1) for word in sweep))
    return [[f"{key}={value}" for key, value in zip(keys, chosen)] for chosen in product(*(v.split(",") for v in values))]


def lines(words: list[str]) -> Iterator[list[str]]:
    """The words of each run of a sweep that is written as for python run.py -m, with what its experiment sweeps over."""
    fixed, axes = [], {}
    overrides = OverridesParser.create().parse_overrides(words)
    for number, (word, override) in enumerate(zip(words, overrides, strict=True)):
        key = word.split("=", 1)[0]
        if not override.is_sweep_override():
            fixed.append(word)
        elif isinstance(override.value(), Glob):
            raise UserError(f"{word} is not spelled out; type the names, as in {key}=A,B")
        elif key == "experiment":  # each has a grid of its own
            for value in override.sweep_string_iterator():
                yield from lines([*words[:number], f"experiment={value}", *words[number + 1 :]])
            return
        else:
            axes[key] = list(override.sweep_string_iterator())
    named = dict(word.split("=", 1) for word in fixed if "=" in word)
    axes = (swept(named["experiment"]) if "experiment" in named else {}) | axes
    axes = {key: values for key, values in axes.items() if key not in named}
    for values in product(*axes.values()):
        yield [*fixed, *(f"{key}={value}" for key, value in zip(axes, values))]
