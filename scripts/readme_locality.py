"""The block of the front page on transformers from scratch: called by scripts/readme.py, which has the command."""

import shutil
from statistics import fmean

from cil.pictures.locality import draw_nonlocality, everywhere
from cil.report.paired import paired
from cil.report.table import grid, mean_and_spread
from cil.rundir import address
from scripts.compose import ROOT, compose
from scripts.pictures import draw, nonlocality_of
from scripts.runs import OUTPUTS, found, listed, run

SEEDS = range(3)
METHODS = ("finetune", "raw", "dytox")
ATTENTIONS = {"plain": "convit_tiny_plain", "gated": "convit_tiny", "LPA": "convit_tiny_lpa"}
NUMBERS = {"ACC": "acc", "avg inc": "incremental_average", "forgetting": "forgetting"}
PICTURES = ROOT / "cil" / "pictures"


def locality(settings: list[str]) -> str:
    """Three attentions under three methods: a table, and nonlocality over the tasks as a picture."""
    lines, panels = [], {}
    for method in METHODS:
        run(f"experiment=lpa/glyphs_{method}", f"backbone={listed(ATTENTIONS.values())}", f"seed={listed(SEEDS)}", *settings)
        runs = {name: found(*words(method, backbone), seeds=SEEDS) for name, backbone in ATTENTIONS.items()}
        looks = {name: [nonlocality_of(OUTPUTS / s["address"]) for s in own] for name, own in runs.items()}
        panels[method] = looks
        base = [s["class_il"]["acc"] for s in runs["gated"]]
        for name, own in runs.items():
            numbers = [mean_and_spread([s["class_il"][key] for s in own]) for key in NUMBERS.values()]
            first, last = (mean_and_spread([fmean(tasks[at]) for tasks in looks[name]], 2) for at in (0, -1))
            more = "–" if name == "gated" else str(paired(base, [s["class_il"]["acc"] for s in own]))
            lines.append([method, name, *numbers, first, last, more, f"{fmean(s['seconds'] for s in own):.0f}"])
    draw_nonlocality(PICTURES / "nonlocality.svg", panels, everywhere(8))
    head = ["method", "attention", *NUMBERS, "looks, task 1", "after the last", "ACC less gated's", "seconds"]
    return grid(head, lines, markdown=True)


def words(method: str, backbone: str) -> list[str]:
    return [f"experiment=lpa/glyphs_{method}", f"backbone={backbone}"]


def maps(settings: list[str]) -> None:
    """Where a patch of one image looks after the first task and the last, gated and locality-preserved."""
    for name, backbone in (("gated", "convit_tiny"), ("lpa", "convit_tiny_lpa")):
        own = [*words("dytox", backbone), "seed=0", *settings]
        run(*own, f"outputs={OUTPUTS / 'kept'}", "machine.keep_checkpoints=all")
        folder = OUTPUTS / "kept" / address(compose(*own))
        draw(folder, kind="svg", task=10)
        shutil.copy(folder / "pictures" / "attention_task_10.svg", PICTURES / f"attention_{name}.svg")
