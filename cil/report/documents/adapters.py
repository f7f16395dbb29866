"""Documentation blocks on adapters on CLIP: RAPF, AWPF and its merges, and the time saved by cached features."""

import os
import shutil
import time
from itertools import product
from tempfile import TemporaryDirectory

from cil.common.tables import grid, mean_and_spread
from cil.pictures.accuracy import draw_sweep
from cil.report.documents.project import Project, listed
from cil.report.paired import paired
from cil.runs.run_folder import address

SEEDS, SCENARIO, ON = range(5), "scenario=glyphs_10tasks", "backbone=clip_tiny"
FUSION, FIGURE4 = "awpf_fusion/glyphs_10tasks", "awpf_figure4/glyphs_10tasks"
ROWS = {
    "continual_clip": ["method=continual_clip"],
    "class_mean": ["method=class_mean", ON],
    "rapf": ["method=rapf"],
    "awpf": ["method=awpf"],
    "awpf, λ 0.9": ["method=awpf", "method.mmd_weight=0.9"],
    "joint adapter": ["method=rapf", "scenario.tasks=1"],
    "joint, all weights": ["method=joint", ON],
}
NUMBERS = {"Avg": "incremental_average", "Last": "acc", "forgetting": "forgetting"}

FUSIONS = {
    "stacked (λ 0.5, η 0.99)": ["method.fusion=stacked"],
    "stacked, λ 0.9": ["method.fusion=stacked", "method.mmd_weight=0.9"],
    "stacked, by MMD alone": ["method.fusion=stacked", "method.balance=mmd"],
    "stacked, by LDA alone": ["method.fusion=stacked", "method.balance=lda"],
    "stacked, weight 0.5": ["method.fusion=stacked", "method.balance=half"],
    "stacked, η 0.9": ["method.fusion=stacked", "method.energy=0.9"],
    "stacked, η 1": ["method.fusion=stacked", "method.energy=1.0"],
    "average": ["method.fusion=average"],
    "decomposed (RAPF)": ["method.fusion=decomposed"],
    "new only": ["method.fusion=new"],
    "old only": ["method.fusion=old"],
}
OPEN = {  # what the paper leaves open; the directions are measured on fewer pseudo-features, since each takes its own MMD
    "fixed scale": [],
    "largest value so far": ["method.scale=largest"],
    "… and η 1": ["method.scale=largest", "method.energy=1.0"],
    "by direction": ["method.factor=direction", "method.samples=25"],
    "by direction, largest so far": ["method.factor=direction", "method.samples=25", "method.scale=largest"],
    "average": ["method.fusion=average"],
}
STARTS = ("random", "identity")


def adapters(at: Project, settings: list[str]) -> str:
    """The table of all methods on the same CLIP features."""
    for words in ROWS.values():
        together(at, *words, SCENARIO, f"seed={listed(SEEDS)}", *settings)
    lines = []
    for name, words in ROWS.items():
        runs = at.found(*words, SCENARIO, seeds=SEEDS)
        one = runs[0]["tasks"] == 1 or name.startswith("joint")
        numbers = [[s["class_il"][key] for s in runs] for key in NUMBERS.values()]
        cells = [mean_and_spread(own) if not one or key == "Last" else "–" for key, own in zip(NUMBERS, numbers)]
        task_il = mean_and_spread([s["task_il"]["acc"] for s in runs]) if runs[0]["tasks"] > 1 else "–"
        lines.append([name, *cells, task_il, str(len(runs))])
    return grid(["method", *NUMBERS, "task-IL", "seeds"], lines, markdown=True)


def fusions(at: Project, settings: list[str]) -> str:
    """The table of merges after the same training, each compared with the stacked merge seed by seed."""
    together(at, f"experiment={FUSION}", *settings)
    together(at, f"experiment={FUSION}", "method.fusion=stacked", "method.mmd_weight=0.9", *settings)
    together(at, f"experiment={FUSION}", "method.fusion=stacked", "method.balance=mmd,lda,half", *settings)
    together(at, f"experiment={FUSION}", "method.fusion=stacked", "method.energy=0.9,1.0", *settings)
    base = [s["class_il"]["acc"] for s in of(at, FUSION, "method.fusion=stacked")]
    lines = []
    for label, words in FUSIONS.items():
        lines.append([label, *compared(at, of(at, FUSION, *words), base)])
    return grid(["merge", *NUMBERS, "weight of new", "Last less stacked's"], lines, markdown=True)


def readings(at: Project, settings: list[str]) -> str:
    """The readings of AWPF that its paper leaves open, from both starts, compared with RAPF from a random start."""
    rows = {name: ["method=awpf", *words] for name, words in OPEN.items()} | {"RAPF": ["method=rapf"]}
    for words in rows.values():
        together(at, *words, f"method.start={listed(STARTS)}", SCENARIO, f"seed={listed(SEEDS)}", *settings)
    base = [s["class_il"]["acc"] for s in at.found("method=rapf", SCENARIO, seeds=SEEDS)]
    lines = []
    for start, (name, words) in product(STARTS, rows.items()):
        runs = at.found(*words, f"method.start={start}", SCENARIO, seeds=SEEDS)
        typed = " ".join(words) + ("" if start == STARTS[0] else f" method.start={start}")
        lines.append([f"{name}, {start}", f"`{typed}`", *compared(at, runs, base)])
    head = ["merge, start", "settings", *NUMBERS, "weight of new", "Last less RAPF's"]
    return grid(head, lines, markdown=True)


def sweep(at: Project, settings: list[str]) -> str:
    """AWPF's Figure 4, as a plot and as a table."""
    together(at, f"experiment={FIGURE4}", *settings)
    values, seeds = at.swept(FIGURE4)["method.mmd_weight"], at.swept(FIGURE4)["seed"]
    runs = [of(at, FIGURE4, f"method.mmd_weight={value}", seeds=range(len(seeds))) for value in values]
    lines = {name: [[s["class_il"][key] for s in own] for own in runs] for name, key in NUMBERS.items()}
    shares: dict[str, list] = {"weight of the new matrix": [[weight(at, s) for s in own] for own in runs]}
    levels = {name: [s["class_il"]["acc"] for s in of(at, FUSION, f"method.fusion={fusion}")]
              for name, fusion in (("Last, RAPF's merge", "decomposed"), ("Last, average", "average"))}  # fmt: skip
    draw_sweep(at.pictures / "awpf_lambda.svg", "λ: how much MMD counts against LDA", [float(value) for value in values],
               {"percent": {"Avg": lines["Avg"], "Last": lines["Last"]}, "points": {"forgetting": lines["forgetting"]},
                "share": shares}, {name: sum(own) / len(own) for name, own in levels.items()})  # fmt: skip
    rows = [[value, *(mean_and_spread(lines[name][n]) for name in NUMBERS), weights(at, own)]
            for n, (value, own) in enumerate(zip(values, runs))]  # fmt: skip
    return grid(["λ", *NUMBERS, "weight of new"], rows, markdown=True)


def planes(at: Project, settings: list[str]) -> None:
    """AWPF's Figure 3: t-SNE of the features after the second task, from a run that keeps all checkpoints."""
    words = ["method=awpf", SCENARIO, "seed=0", *settings]
    at.run(*words, f"outputs={at.outputs / 'kept'}", "machine.keep_checkpoints=all")
    folder = at.outputs / "kept" / address(at.compose(*words))
    at.draw(folder, kind="svg", task=2)
    shutil.copy(folder / "pictures" / "tsne_task_02.svg", at.pictures / "tsne.svg")


def features(at: Project) -> str:
    """The output of `scripts/bench.py features` as a table."""
    lines = []
    for method in ("rapf", "awpf", "class_mean"):
        for row in at.bench("features", f"method={method}", ON):
            encodes = f"{row['image_encodes']:,} ({row['image_encodes'] / row['images']:.1f} per image)"
            lines.append([method, row["what"], encodes, f"{row['seconds']:.1f}", f"{row['times_faster']:.1f}"])
    return grid(["method", "features", "image encodes", "seconds", "times faster"], lines, markdown=True)


def clock(at: Project) -> str:
    """The time of a sweep as one process with cached features, from its command to its end."""
    runs = len(at.swept(FIGURE4)["method.mmd_weight"]) * len(at.swept(FIGURE4)["seed"])
    with TemporaryDirectory() as folder:
        since = time.perf_counter()
        together(at, f"experiment={FIGURE4}", f"outputs={folder}")
        seconds = time.perf_counter() - since
    return f"The {runs} runs of `experiment={FIGURE4}`, with cached features, take {seconds:.0f} s on {os.cpu_count()} cores."


# --- runs -------------------------------------------------------------------------------------------------------------


def together(at: Project, *words: str) -> None:
    at.run(*words, "hydra/launcher=stacked")


def of(at: Project, experiment: str, *words: str, seeds: range = SEEDS) -> list[dict]:
    return at.found(f"experiment={experiment}", *words, seeds=seeds)


def compared(at: Project, runs: list[dict], base: list[float]) -> list[str]:
    """The numbers of a row, the weight of the new matrix, and how ACC differs from that of the `base`."""
    numbers = [mean_and_spread([s["class_il"][key] for s in runs]) for key in NUMBERS.values()]
    last = [s["class_il"]["acc"] for s in runs]
    return [*numbers, weights(at, runs), "–" if last == base else str(paired(base, last))]


def weight(at: Project, summary: dict) -> float | None:
    """The mean weight of the new matrix over the merges of a run."""
    found = [event["weight of new"] for event in at.events(summary) if "weight of new" in event]
    return sum(found) / len(found) if found else None


def weights(at: Project, runs: list[dict]) -> str:
    found = [weight(at, summary) for summary in runs]
    return "–" if None in found else mean_and_spread([one for one in found if one is not None], 2)


def fill_all(at: Project, settings: list[str]) -> None:
    """Fill every block of this module, and draw the pictures."""
    planes(at, settings)
    at.fill("adapters", adapters(at, settings))
    at.fill("fusions", fusions(at, settings))
    at.fill("readings_of_awpf", readings(at, settings))
    at.fill("lambda", sweep(at, settings))
    at.fill("features", features(at))
    at.fill("together", clock(at))
