"""Documentation block on TinyImageNet with the recovered ViT-S/14. It starts no runs."""

import json
from itertools import product
from statistics import fmean

from cil.common.tables import grid, mean_and_spread
from cil.report.documents.project import Project
from cil.report.documents.projection import bases, moved
from cil.runs.run_folder import address

BACKBONES = {"vit_s14_photographs_selfsup": "without labels", "vit_s14_photographs": "with labels"}
OTHERS, PROMPTS = "experiment=photographs/half_10tasks_others", "experiment=photographs/half_10tasks"
FEWER = ("dataset.train_per_class=30", "dataset.test_per_class=10")  # a prompted run then takes seven minutes of one core
ROWS = {
    "nearest class mean": (OTHERS, "method=class_mean"),
    "linear head, task after task": (OTHERS, "method=finetune", "method.learn=head"),
    "linear head, all classes at once": (OTHERS, "method=finetune", "method.learn=head", "scenario.tasks=1"),
    "RanPAC": (OTHERS, "method=ranpac"),
    "L2P": (PROMPTS, "method=l2p", *FEWER),
    "L2P with PGP": (PROMPTS, "method=l2p", "modifier=pgp", *FEWER),
    "DualPrompt": (PROMPTS, "method=dualprompt", *FEWER),
    "DualPrompt with PGP": (PROMPTS, "method=dualprompt", "modifier=pgp", *FEWER),
}
SEEDS = (0, 1, 2, 3, 4)


def recovered(at: Project, settings: list[str]) -> None:
    """Fill the block with the record of each checkpoint and a table of what is finished; other cells say so."""
    at.fill("recovered", f"{records(at)}\n\n{table(at, settings)}\n\n{effects(at, settings)}")


def records(at: Project) -> str:
    """What nearest class means reach on the unseen half of the classes, before and after."""
    lines = []
    for name, told in BACKBONES.items():
        made = record(at, name)
        percent = [f"{made['percent_on_the_unseen_half'][key]:.1f}" for key in ("frozen_class_token", "body", "recovered")]
        lines.append([told, *percent, f"`{made['weights_sha256'][:12]}`", f"`{made['command']}`"])
    head = ["last block trained", "token after block 11", "body as it came", "recovered", "sha256", "command"]
    return grid(head, lines, markdown=True)


def record(at: Project, name: str) -> dict:
    return json.loads((at.root / "data" / "weights" / name / "record.json").read_text())


def table(at: Project, settings: list[str]) -> str:
    """One line per checkpoint and method; what has no finished run says so."""
    lines = []
    for backbone, told in BACKBONES.items():
        for name, words in ROWS.items():
            own = [finished(at, *words, f"backbone={backbone}", f"seed={seed}", *settings) for seed in SEEDS]
            lines.append([told, name, *numbers_of([run for run in own if run])])
    head = ["last block trained", "method", "ACC", "forgetting", "forgetting, task told", "seeds", "seconds", "images encoded"]
    commands = "; ".join(f"{name}: `python run.py {' '.join(words)}`" for name, words in ROWS.items())
    more = " ".join(["backbone=…", "seed=…", *settings])
    return f"{grid(head, lines, markdown=True)}\n\n{commands}; each with `{more}`."


def effects(at: Project, settings: list[str]) -> str:
    """What PGP changes, seed by seed, where runs with and without it are finished."""
    lines = []
    for (backbone, told), host in product(BACKBONES.items(), ("L2P", "DualPrompt")):
        words = ROWS[host], ROWS[f"{host} with PGP"]
        both = [[finished(at, *own, f"backbone={backbone}", f"seed={seed}", *settings) for own in words] for seed in SEEDS]
        pairs = [(plain, projected) for plain, projected in both if plain and projected]
        if len(pairs) > 1:
            plain, projected = (list(runs) for runs in zip(*pairs))
            shares = {kind: fmean(run["bases"][kind][2] for run in projected) for kind in projected[0]["bases"]}
            removed = [f"{kind} {100 * share:.0f} %" for kind, share in shares.items()]
            lines.append([told, host, *moved(plain, projected), ", ".join(removed), str(len(pairs))])
    change = ["PGP moves ACC by", "forgetting by", "forgetting, task told, by"]
    return grid(["last block trained", "host", *change, "gradient removed", "seeds"], lines, markdown=True)


def numbers_of(runs: list[dict]) -> list[str]:
    if not runs:
        return ["not run", *["–"] * 5]
    lost = [[run[kind]["forgetting"] for run in runs] for kind in ("class_il", "task_il")]
    return [
        mean_and_spread([run["class_il"]["acc"] for run in runs]),
        *(mean_and_spread(values) if None not in values else "–" for values in lost),
        str(len(runs)),
        f"{fmean(run['seconds'] for run in runs):.0f}",
        f"{fmean(run['image_encodes'] for run in runs):,.0f}",
    ]


def finished(at: Project, *words: str) -> dict | None:
    """The numbers of a run that is finished, here or before elsewhere, with the weights of the record."""
    config = at.compose(*words)
    own = at.kept("photographs", address(config), lambda summary: numbers(at, summary))
    return own if own and own["weights"] == record(at, config["backbone"]["weights"])["weights_sha256"] else None


def numbers(at: Project, summary: dict) -> dict:
    """What the tables need of a run's summary and events."""
    parts = {kind: {name: summary[kind][name] for name in ("acc", "forgetting")} for kind in ("class_il", "task_il")}
    found = {kind: [*of] for kind, of in bases(at, [summary] if summary["config"].get("modifier") else []).items()}
    return {**parts, **{key: summary[key] for key in ("seconds", "image_encodes")}, "bases": found,
            "weights": summary["identity"]["weights_sha256"]}  # fmt: skip
