"""Documentation block on the common baselines, with a pre-trained network and from scratch."""

import time
from collections.abc import Sequence

from cil.common.errors import UserError
from cil.common.tables import grid, mean_and_spread
from cil.report.collect import count
from cil.report.documents.project import Project, listed
from cil.runs.run_folder import address

SEEDS = range(3)
SCENARIO = "scenario=glyphs_10tasks"
PRETRAINED = (
    "finetune", "finetune method.columns=new", "ewc", "lwf", "icarl", "bic", "derpp", "aper", "ease",
    "coda_prompt", "class_mean", "ranpac", "slca", "joint",
)  # fmt: skip
SCRATCH = (
    "finetune family=resnet32", "ewc family=resnet32", "lwf family=resnet32", "icarl family=resnet32", "bic family=resnet32",
    "derpp family=resnet32", "der_mcg", "ari", "joint family=resnet32",
)  # fmt: skip
COLUMNS = {
    "ACC": ("class_il", "acc"), "forgetting": ("class_il", "forgetting"), "avg inc": ("class_il", "incremental_average"),
    "task-IL": ("task_il", "acc"),
}  # fmt: skip


def words(row: str) -> list[str]:
    return [*f"method={row}".split(), SCENARIO]


def baselines(at: Project, settings: list[str]) -> str:
    """Both tables, sorted by ACC, lowest first, and the time of their runs."""
    every = [words(row) for row in (*PRETRAINED, *SCRATCH)]
    places = [at.outputs / address(at.compose(*own, *settings, f"seed={seed}")) for own in every for seed in SEEDS]
    from_nothing, since = not any((place / "DONE").exists() for place in places), time.perf_counter()
    failed = at.side_by_side([[*own, f"seed={listed(SEEDS)}", *settings] for own in reversed(every)])  # the slowest first
    if failed:
        raise UserError(failed[0])
    minutes = (time.perf_counter() - since) / 60
    tables, seconds = [], 0.0
    for title, rows in (("`vit_tiny`, pre-trained", PRETRAINED), ("`resnet_tiny`, from scratch", SCRATCH)):
        groups = [(row, at.found(*words(row), *settings, seeds=SEEDS)) for row in rows]
        groups.sort(key=lambda pair: sum(run["class_il"]["acc"] for run in pair[1]))
        tables.append(f"{title}:\n\n{table(groups)}")
        seconds += sum(run["seconds"] for _, group in groups for run in group)
    new = f" in {minutes:.0f} minutes" if from_nothing else ""
    cores = at.workers()
    note = (
        f"`python scripts/fill_docs.py baselines` makes both tables{new}, with {cores} runs at a time on {cores} cores. Their "
        f"{len(SEEDS) * len(every)} runs took {seconds / 60:.0f} core minutes. Exemplars: number of images kept at the end."
    )
    return "\n\n".join([*tables, note])


def table(groups: Sequence[tuple[str, list[dict]]]) -> str:
    lines = []
    for row, runs in groups:
        numbers = [mean_and_spread([run[part][key] for run in runs]) for part, key in COLUMNS.values()]
        kept = str(runs[0]["config"]["method"].get("memory", 0))
        seconds = f"{sum(run['seconds'] for run in runs) / len(runs):.0f}"
        lines.append([f"`{row}`", *numbers, kept, count(runs[0]["trained_parameters"]), seconds])
    return grid(["method", *COLUMNS, "exemplars", "trained", "seconds"], lines, markdown=True)
