"""A run of less than a minute for README.md, and the accuracy curves of several methods on Split-Glyphs."""

import re
import resource
from tempfile import TemporaryDirectory

from cil.pictures.accuracy import draw_curve
from cil.report.documents.project import Project, listed
from cil.runs.run_folder import address, read_matrices

SCENARIO = "scenario=glyphs_10tasks"
CURVES = ("ranpac", "slca", "class_mean", "icarl", "lwf", "dualprompt", "finetune")
FIRST = "class_mean"


def fill_all(at: Project, settings: list[str]) -> None:
    at.fill("first", first(at))
    curves(at)


def first(at: Project) -> str:
    """The output of one short run without any cache, and its time."""
    with TemporaryDirectory() as folder:
        fresh, since = [f"outputs={folder}", f"data.root={folder}", "data.features=null"], cpu_seconds()
        output = at.printed("run.py", f"method={FIRST}", *fresh, "log.live=false")
        seconds = cpu_seconds() - since
    lines = re.sub(r"/[0-9a-f]{10}/", "/…/", output.replace(folder, "outputs")).rstrip().splitlines()
    table = next(number for number, line in enumerate(lines) if line.startswith("percent correct"))
    shown = "\n".join([lines[0], "…", *lines[table:]])
    took = f"It takes {seconds:.0f} seconds of CPU time, including the time to draw the images."
    return f"```\n$ python run.py method={FIRST}\n{shown}\n```\n\n{took}"


def cpu_seconds() -> float:
    """CPU time of all finished child processes; unlike wall-clock time, it does not depend on other work on the machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def curves(at: Project) -> None:
    """Draw the mean accuracy after each task of several methods, for seed 0."""
    at.run(f"method={listed(CURVES)}", SCENARIO, "seed=0")
    places = {name: at.outputs / address(at.compose(f"method={name}", SCENARIO, "seed=0")) for name in CURVES}
    accuracies = {name: read_matrices(place)["class_il"].curve() for name, place in places.items()}
    draw_curve(at.pictures / "curves.svg", accuracies, "Split-Glyphs: accuracy over all classes seen, one seed")
