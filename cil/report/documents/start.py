"""The blocks of the front page: a run that takes less than a minute, and the picture of accuracy curves."""

import subprocess
import sys
from tempfile import TemporaryDirectory

from cil.pictures.accuracy import draw_curve
from cil.report.documents.project import Project, listed
from cil.rundir import address, read_matrices

SCENARIO = "scenario=glyphs_10tasks"
CURVES = ("ranpac", "class_mean", "slca", "icarl", "lwf", "dualprompt", "finetune")
FIRST = "class_mean"


def fill_all(at: Project, settings: list[str]) -> None:
    at.fill("first", first(at))
    curves(at)


def first(at: Project) -> str:
    """What the screen shows of one short run, from nothing."""
    words = ["python", "run.py", f"method={FIRST}"]
    with TemporaryDirectory() as folder:
        own = [sys.executable, "run.py", words[2], f"outputs={folder}", "log.live=false", "data.features=null"]
        told = subprocess.run(own, cwd=at.root, capture_output=True, text=True, check=True).stdout
        told = told.replace(folder, "outputs")
    return f"```\n$ {' '.join(words)}\n{told.rstrip()}\n```"


def curves(at: Project) -> None:
    """Mean accuracy after each task, of seed 0."""
    at.run(f"method={listed(CURVES)}", SCENARIO, "seed=0")
    places = {name: at.outputs / address(at.compose(f"method={name}", SCENARIO, "seed=0")) for name in CURVES}
    matrices = {name: read_matrices(place)["class_il"] for name, place in places.items()}
    draw_curve(at.pictures / "curves.svg", matrices, "Split-Glyphs: accuracy over all classes seen, one seed")
