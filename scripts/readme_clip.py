"""The blocks of the READMEs on prompts before names: called by scripts/readme.py, which has the commands."""

import shutil

from cil.report.across import Across, across
from cil.report.collect import collect
from cil.report.paired import paired
from cil.report.table import grid, mean_and_spread
from cil.rundir import address
from scripts.compose import ROOT, compose
from scripts.pictures import draw
from scripts.runs import OUTPUTS, found, listed, run
from scripts.tables import sweep

SEEDS, SCENARIO, TWIN = range(3), "scenario=glyphs_10tasks", "scenario=latin_to_greek"
ROWS = {
    "continual_clip": ["method=continual_clip"],
    "coop (-1)": ["method=coop", "scenario.exemplars=own"],
    "coop (-2)": ["method=coop"],
    "attriclip (paper)": ["method=attriclip", "reading=paper"],
    "attriclip (released)": ["method=attriclip", "reading=released"],
    "clip_prompt": ["method=clip_prompt"],
    "clip_prompt+pgp": ["method=clip_prompt", "modifier=pgp"],
    "joint": ["method=joint", "backbone=clip_tiny"],
}


def clip() -> str:
    """All rows on one backbone, against its zero-shot answers; and what a leaky evaluation adds."""
    run(*ROWS["joint"], SCENARIO, f"seed={listed(SEEDS)}")
    lines, zero = [], [summary["class_il"]["acc"] for summary in found(*ROWS["continual_clip"], SCENARIO, seeds=SEEDS)]
    for name, words in ROWS.items():
        if name == "coop (-1)":
            continue  # no earlier data set to remember
        runs = found(*words, SCENARIO, seeds=SEEDS)
        acc, *rest = ([summary["class_il"][key] for summary in runs] for key in ("acc", "forgetting", "backward_transfer"))
        leaky = [summary["leaky_il"]["acc"] for summary in runs if "leaky_il" in summary]
        numbers = [mean_and_spread(values) for values in (acc, *rest, leaky)]
        lines.append([name.removesuffix(" (-2)"), *numbers, str(paired(zero, acc)) if acc != zero else "–"])
    return grid(["method", "ACC", "forgetting", "BT", "leaky ACC", "ACC less zero-shot's"], lines, markdown=True)


def alphabets(settings: list[str]) -> str:
    """The offline twin of AttriCLIP's tables 3 to 5: among a data set's own names, and among all."""
    every, lines = f"seed={listed(SEEDS)}", {"own": [], "all": []}
    for name, words in ROWS.items():
        joint = name == "joint"  # it answers at the end alone, so that what is lost is told by a run over the first
        alone = [word for word in words if not word.startswith("scenario.")]
        run(TWIN, *words, every, *settings)
        run(TWIN, *alone, every, f"dataset.only={'first,second' if joint else 'second'}", *settings)
        both, second = found(TWIN, *words, seeds=SEEDS), found(TWIN, *alone, "dataset.only=second", seeds=SEEDS)
        first = found(TWIN, *alone, "dataset.only=first", seeds=SEEDS) if joint else [None] * len(both)
        told = [across(OUTPUTS, *three) for three in zip(both, second, first, strict=True)]
        for names, table in lines.items():
            table.append([name, *(mean_and_spread([getattr(one[names], field) for one in told]) for field in Across._fields)])
        within = [[summary["class_il"][key] for summary in both] for key in ("forgetting", "backward_transfer")]
        lines["own"][-1].pop()  # the union has no names of its own
        lines["all"][-1] += map(mean_and_spread, within)
    head = ["Greek alone", "after Latin", "FT", "Latin alone", "before Greek", "BT"]
    more = ["both", "forgetting", "BT, tasks"]
    tables = [
        grid(["its own names", *head], lines["own"], markdown=True),
        grid(["all 50 names", *head, *more], lines["all"], markdown=True),
    ]
    return "\n\n".join([*tables, f"{len(SEEDS)} seeds; `python scripts/readme.py across` made it."])


def sweeps(settings: list[str]) -> str:
    """AttriCLIP's tables 6 to 8: one command each."""
    parts = []
    for number in (6, 7, 8):
        name = f"attriclip_table{number}/glyphs_10tasks"
        run(f"experiment={name}", *settings)
        parts.append(f"Table {number}, `python run.py -m experiment={name}`:\n\n{sweep(name, collect(OUTPUTS)[0], True)}")
    return "\n\n".join([*parts, "`python scripts/readme.py sweeps` made them."])


def pictures() -> None:
    """Of the first seed, beside the code that draws them."""
    folder = OUTPUTS / address(compose(*ROWS["attriclip (paper)"], SCENARIO, "seed=0"))
    draw(folder, 6, "svg")
    for name in ("prompts_of_images.svg", "keys.svg"):
        shutil.copy(folder / "pictures" / name, ROOT / "cil" / "pictures" / name)
