"""Sweeps and their summaries, for the scripts that make tables."""

import json
import subprocess
import sys
from itertools import product

from cil.mistakes import Mistake
from cil.rundir import address
from scripts.compose import ROOT, compose

OUTPUTS = ROOT / "outputs"


def run(*words: str) -> None:
    """A sweep; what is finished is not repeated."""
    if subprocess.run([sys.executable, ROOT / "run.py", "-m", *words], cwd=ROOT).returncode:
        raise Mistake(f"a run failed; type python run.py -m {' '.join(words)} to see why")


def found(*words: str, seeds: range) -> list[dict]:
    """The summaries of one configuration, by seed."""
    places = [OUTPUTS / address(compose(*words, f"seed={seed}")) for seed in seeds]
    return [json.loads((place / "summary.json").read_text()) for place in places]


def spelled(sweep: list[str]) -> list[list[str]]:
    """The command lines that a sweep stands for."""
    keys, values = zip(*(word.split("=", 1) for word in sweep))
    return [[f"{key}={value}" for key, value in zip(keys, chosen)] for chosen in product(*(v.split(",") for v in values))]


def listed(values: object) -> str:
    return ",".join(map(str, values))
