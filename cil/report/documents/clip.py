"""Documentation blocks on learned text prompts for CLIP: CoOp, AttriCLIP and PGP."""

import shutil

from cil.common.tables import grid, mean_and_spread
from cil.report.across import tables
from cil.report.collect import collect, rows
from cil.report.documents.project import Project, listed
from cil.report.paired import paired
from cil.runs.run_folder import address

SEEDS, SCENARIO, TWIN = range(3), "scenario=glyphs_10tasks", "scenario=latin_to_greek"
ROWS = {
    "continual_clip": ["method=continual_clip"],
    "coop (-1)": ["method=coop", "scenario.exemplars=own"],
    "coop (-2)": ["method=coop"],
    "attriclip (paper)": ["method=attriclip", "reading=paper"],
    "attriclip (released)": ["method=attriclip", "reading=released"],
    "attriclip (pristine tests)": ["method=attriclip", "reading=released", "method.pristine_tests=true"],
    "clip_prompt": ["method=clip_prompt"],
    "clip_prompt+pgp": ["method=clip_prompt", "modifier=pgp"],
    "joint": ["method=joint", "backbone=clip_tiny"],
}


def clip(at: Project) -> str:
    """The table of all methods on one backbone, compared with its zero-shot accuracy, and with the leaky evaluation."""
    for name in ("joint", "attriclip (pristine tests)"):
        at.run(*ROWS[name], SCENARIO, f"seed={listed(SEEDS)}")
    lines, zero = [], [summary["class_il"]["acc"] for summary in at.found(*ROWS["continual_clip"], SCENARIO, seeds=SEEDS)]
    for name, words in ROWS.items():
        if name == "coop (-1)":
            continue  # differs from -2 only with several datasets
        runs = at.found(*words, SCENARIO, seeds=SEEDS)
        acc, *rest = ([summary["class_il"][key] for summary in runs] for key in ("acc", "forgetting", "backward_transfer"))
        leaky = [summary["leaky_il"]["acc"] for summary in runs if "leaky_il" in summary]
        numbers = [mean_and_spread(values) for values in (acc, *rest, leaky)]
        lines.append([name.removesuffix(" (-2)"), *numbers, str(paired(zero, acc)) if acc != zero else "–"])
    return grid(["method", "ACC", "forgetting", "BT", "leaky ACC", "ACC less zero-shot's"], lines, markdown=True)


def alphabets(at: Project, settings: list[str]) -> str:
    """The offline version of AttriCLIP's tables 3 to 5, with two alphabets in place of the two datasets."""
    every = f"seed={listed(SEEDS)}"
    for name, words in ROWS.items():
        alone = [word for word in words if not word.startswith("scenario.")]
        at.run(TWIN, *words, every, *settings)
        at.run(TWIN, *alone, every, f"dataset.only={'first,second' if name == 'joint' else 'second'}", *settings)
    summaries = collect(at.outputs)[0]
    wanted = {address(at.compose(TWIN, *words, f"seed={seed}")) for words in ROWS.values() for seed in SEEDS}
    text = tables(rows(summaries, wanted), summaries, at.outputs, markdown=True)
    return f"{text}\n\nMade by `python scripts/fill_docs.py across`."


def sweeps(at: Project, settings: list[str]) -> str:
    """AttriCLIP's tables 6 to 8, each with the command that makes it."""
    parts = []
    for number in (6, 7, 8):
        name = f"attriclip_table{number}/glyphs_10tasks"
        at.run(f"experiment={name}", *settings)
        parts.append(
            f"Table {number}, `python run.py -m experiment={name}`:\n\n{at.swept_table(name, collect(at.outputs)[0], True)}"
        )
    return "\n\n".join([*parts, "Made by `python scripts/fill_docs.py sweeps`."])


def pictures(at: Project) -> None:
    """Draw the pictures of AttriCLIP's prompts in the run of the first seed, and copy them to the documentation."""
    folder = at.outputs / address(at.compose(*ROWS["attriclip (paper)"], SCENARIO, "seed=0"))
    at.draw(folder, 5, "svg", "contrast")
    for name in ("prompts_of_images.svg", "keys.svg"):
        shutil.copy(folder / "pictures" / name, at.pictures / name)
