"""Documentation block on transformers trained from scratch, with three kinds of attention."""

import os
import shutil
import time
from statistics import fmean
from tempfile import TemporaryDirectory

from cil.common.tables import grid, mean_and_spread
from cil.pictures.locality import draw_nonlocality, everywhere
from cil.report.documents.project import Project, listed
from cil.report.paired import paired
from cil.runs.run_folder import address

SEEDS = {"finetune": range(3), "raw": range(1), "dytox": range(3)}
ATTENTIONS = {"plain": "convit_tiny_plain", "gated": "convit_tiny", "LPA": "convit_tiny_lpa"}
NUMBERS = {"ACC": "acc", "avg inc": "incremental_average", "forgetting": "forgetting"}
LOOKS = ("looks_first", "looks_last")
PHOTOGRAPHS = "experiment=photographs/dytox"
NOTE = (
    "Looks: the mean attention distance of a patch, in patches, over heads, blocks and the test images of the first task, "
    "after that task and after the last. Differences from gated attention: seed by seed, with the p-value of a paired t-test."
)


def locality(at: Project, settings: list[str]) -> str:
    """The table of three kinds of attention with three methods; also draws the attention distance over the tasks."""
    lines, panels = [], {}
    for method, seeds in SEEDS.items():
        known = {name: backbone for name, backbone in ATTENTIONS.items() if method != "raw" or name != "plain"}
        at.run(f"experiment=lpa/glyphs_{method}", f"backbone={listed(known.values())}", f"seed={listed(seeds)}", *settings)
        runs = {name: at.found(*words(method, backbone), seeds=seeds) for name, backbone in known.items()}
        looks = {name: [at.nonlocality(at.outputs / s["address"]) for s in own] for name, own in runs.items()}
        panels[method] = looks
        base = [s["class_il"]["acc"] for s in runs["gated"]]
        for name, own in runs.items():
            numbers = [mean_and_spread([s["class_il"][key] for s in own]) for key in NUMBERS.values()]
            first, last = (mean_and_spread([fmean(tasks[when]) for tasks in looks[name]], 2) for when in (0, -1))
            more = "–" if name == "gated" else str(paired(base, [s["class_il"]["acc"] for s in own]))
            lines.append([method, name, *numbers, first, last, more, str(len(own))])
    draw_nonlocality(at.pictures / "nonlocality.svg", panels, everywhere(8))
    head = ["method", "attention", *NUMBERS, "looks, task 1", "after the last", "ACC less gated's", "seeds"]
    return f"{grid(head, lines, markdown=True)}\n\n{NOTE}"


def on_photographs(at: Project, settings: list[str]) -> None:
    """Fill the block on DyTox with the photographs of TinyImageNet, from finished runs; it starts none."""
    lines = []
    for name, backbone in ATTENTIONS.items():
        place = address(at.compose(PHOTOGRAPHS, f"backbone={backbone}", "seed=0", *settings))
        own = at.kept("photographs", place, lambda summary: looks_of(at, summary))
        cells = [f"{own[key]:.1f}" for key in NUMBERS.values()] + [f"{own[key]:.2f}" for key in LOOKS] if own else ["–"] * 5
        lines.append([name, *(cells if own else ["not run", *cells[1:]])])
    command = f"`python run.py -m {PHOTOGRAPHS} backbone={listed(ATTENTIONS.values())} {' '.join(settings)}`"
    head = ["attention", *NUMBERS, "looks, task 1", "after the last"]
    at.fill("locality_photographs", f"{grid(head, lines, markdown=True)}\n\nOne seed: {command}.")


def looks_of(at: Project, summary: dict) -> dict:
    """A run's accuracies, and how far its patches look after the first and the last task."""
    tasks = at.nonlocality(at.outputs / summary["address"])
    return {key: summary["class_il"][key] for key in NUMBERS.values()} | dict(zip(LOOKS, (fmean(tasks[0]), fmean(tasks[-1]))))


def cost(at: Project) -> str:
    """The cost of a training step with RandAugment, measured by `scripts/bench.py`."""
    own = ["step", "method=dytox", "backbone=convit_tiny", "+augment.train.randaugment=true", "--batch", "32"]
    (row,) = at.bench(*own)
    share, forwards = 100 * row["share_of_the_batch"], row["flops_ratio"]
    return (
        f"A training step of `dytox` on 32 images costs as many operations as {forwards:.2f} bare forward passes. With "
        f"RandAugment, making the batch takes {share:.0f} % of the step (`python scripts/bench.py {' '.join(own)}`)."
    )


def clock(at: Project) -> str:
    """The time of a run of ten tasks with the tiny version of DyTox."""
    with TemporaryDirectory() as folder:
        since = time.perf_counter()
        at.printed("run.py", *words("dytox", "convit_tiny"), f"outputs={folder}")
        seconds = time.perf_counter() - since
    return f"Ten tasks of `dytox` on `convit_tiny` take {seconds:.0f} s on {os.cpu_count()} cores, from the command to its end."


def words(method: str, backbone: str) -> list[str]:
    return [f"experiment=lpa/glyphs_{method}", f"backbone={backbone}"]


def maps(at: Project, settings: list[str]) -> None:
    """Draw attention maps of one image after the last task, with gated and with locality-preserved attention."""
    for name, backbone in (("gated", "convit_tiny"), ("lpa", "convit_tiny_lpa")):
        folder = at.outputs / address(at.compose(*words("dytox", backbone), "seed=0", *settings))
        at.draw(folder, kind="svg")
        shutil.copy(folder / "pictures" / "attention.svg", at.pictures / f"attention_{name}.svg")


def fill_all(at: Project, settings: list[str]) -> None:
    """Fill every block of this module, and draw the pictures."""
    at.fill("locality", locality(at, settings))
    maps(at, settings)
    at.fill("scratch", f"{cost(at)} {clock(at)}")
