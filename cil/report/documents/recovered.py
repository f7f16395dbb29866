"""Documentation block on TinyImageNet with the recovered ViT-S/14. It reads finished runs and starts none."""

import json
from statistics import fmean

from cil.common.tables import grid, mean_and_spread
from cil.report.documents.project import Project
from cil.runs.run_folder import RunDir, address

BACKBONES = {"vit_s14_photographs_selfsup": "without labels", "vit_s14_photographs": "with labels"}
OTHERS, PROMPTS = "experiment=photographs/half_10tasks_others", "experiment=photographs/half_10tasks"
ROWS = {
    "nearest class mean": (OTHERS, "method=class_mean"),
    "linear head, task after task": (OTHERS, "method=finetune", "method.learn=head"),
    "linear head, all classes at once": (OTHERS, "method=finetune", "method.learn=head", "scenario.tasks=1"),
    "RanPAC": (OTHERS, "method=ranpac"),
    "L2P": (PROMPTS, "method=l2p"),
    "L2P with PGP": (PROMPTS, "method=l2p", "modifier=pgp"),
    "DualPrompt": (PROMPTS, "method=dualprompt"),
    "DualPrompt with PGP": (PROMPTS, "method=dualprompt", "modifier=pgp"),
}
SEEDS = (0, 1, 2, 3, 4)


def recovered(at: Project, settings: list[str]) -> None:
    """Fill the block with the record of each checkpoint and a table of what is finished; other cells say so."""
    at.fill("recovered", f"{records(at)}\n\n{table(at, settings)}")


def records(at: Project) -> str:
    """What nearest class means reach on the unseen half of the classes, before and after."""
    lines = []
    for name, told in BACKBONES.items():
        record = json.loads((at.root / "data" / "weights" / name / "record.json").read_text())
        percent = record["percent_on_the_unseen_half"]
        numbers = [f"{percent[key]:.1f}" for key in ("frozen_class_token", "body", "recovered")]
        lines.append([told, *numbers, f"`{record['weights_sha256'][:12]}`", f"`{record['command']}`"])
    head = ["last block trained", "token after block 11", "body as it came", "recovered", "sha256", "command"]
    return grid(head, lines, markdown=True)


def table(at: Project, settings: list[str]) -> str:
    """One line per checkpoint and method; what has no finished run says so."""
    lines = []
    for backbone, told in BACKBONES.items():
        for name, words in ROWS.items():
            own = [finished(at, *words, f"backbone={backbone}", f"seed={seed}", *settings) for seed in SEEDS]
            lines.append([told, name, *numbers_of([run for run in own if run])])
    head = ["last block trained", "method", "ACC", "forgetting", "seeds", "seconds", "images encoded"]
    commands = "; ".join(f"{name}: `python run.py {' '.join(words)}`" for name, words in ROWS.items())
    more = " ".join(["backbone=…", "seed=…", *settings])
    return f"{grid(head, lines, markdown=True)}\n\n{commands}; each with `{more}`."


def numbers_of(runs: list[dict]) -> list[str]:
    if not runs:
        return ["not run", "–", "–", "–", "–"]
    lost = [run["class_il"]["forgetting"] for run in runs]
    return [
        mean_and_spread([run["class_il"]["acc"] for run in runs]),
        mean_and_spread(lost) if None not in lost else "–",
        str(len(runs)),
        f"{fmean(run['seconds'] for run in runs):.0f}",
        f"{fmean(run['image_encodes'] for run in runs):,.0f}",
    ]


def finished(at: Project, *words: str) -> dict | None:
    run = RunDir(at.outputs / address(at.compose(*words)))
    return run.summary() if run.is_done else None
