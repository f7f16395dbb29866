"""Documentation blocks that compare methods on Split-Glyphs.

One is on the common baselines, with a pre-trained network and from scratch. The other is on the methods of 2023 to 2026, over
three class orders, and starts no runs.
"""

import time
from statistics import fmean

from cil.common.errors import UserError
from cil.common.tables import grid, mean_and_spread
from cil.report import collect
from cil.report.documents.project import Project, listed
from cil.report.documents.projection import moved
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
COLUMNS = {name: place for name, place in collect.COLUMNS.items() if name != "BT"}
TABLES = {
    "`vit_tiny`, pre-trained": (
        "class_mean", "fecam", "ranpac", "aper", "ease", "slca", "l2p", "dualprompt", "coda_prompt", "lae", "inflora",
        "sd_lora", "tuna", "mos", "pet method.kind=lora", "pet method.kind=lora modifier=pgp", "pet method.kind=prompt",
        "pet method.kind=prompt modifier=nsp2",
    ),
    "`clip_tiny`": ("continual_clip", "rapf", "awpf", "bofa", "mg_clip", "proof"),
}  # fmt: skip
ORDER = "scenario.order=seed"
PROJECTED = {"pet method.kind=lora": "modifier=pgp", "pet method.kind=prompt": "modifier=nsp2"}


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
        groups.sort(key=lambda pair: acc(pair[1]))
        lines = [line(row, found, str(found[0]["config"]["method"].get("memory", 0))) for row, found in groups]
        head = ["method", *COLUMNS, "exemplars", "trained", "seconds"]
        tables.append(f"{title}:\n\n{grid(head, lines, markdown=True)}")
        seconds += sum(run["seconds"] for _, group in groups for run in group)
    new = f" in {minutes:.0f} minutes" if from_nothing else ""
    cores = at.workers()
    note = (
        f"`python scripts/fill_docs.py baselines` makes both tables{new}, with {cores} runs at a time on {cores} cores. Their "
        f"{len(SEEDS) * len(every)} runs took {seconds / 60:.0f} core minutes. Exemplars: number of images kept at the end."
    )
    return "\n\n".join([*tables, note])


def orders(at: Project, settings: list[str]) -> None:
    """Fill the block from finished runs, and print the commands of those that are missing."""
    tables = []
    for title, rows in TABLES.items():
        finished = {row: runs(at, row, settings) for row in rows}
        for row in (row for row, found in finished.items() if len(found) < len(SEEDS)):
            print(f"python run.py -m {' '.join([*words(row), ORDER, *settings])} seed={listed(SEEDS)}")
        lines = [line(row, found) for row, found in sorted(finished.items(), key=lambda pair: acc(pair[1]))]
        head = ["method", *COLUMNS, "trained", "seconds"]
        tables.append(f"{title}:\n\n{grid(head, lines, markdown=True)}")
    note = (
        f"Mean and standard deviation over {len(SEEDS)} class orders (`{ORDER} seed={listed(SEEDS)}`), which also change the "
        "initial weights and the batches. `python scripts/fill_docs.py orders` fills both tables from finished runs and prints "
        "the commands of the others, so `python scripts/fill_docs.py orders | sh` runs them. Numbers of "
        "finished runs are kept in `docs/results/class_orders.json`."
    )
    told = "What a projection changes, order by order, with the p-value of a paired t-test:"
    at.fill("orders", "\n\n".join([*tables, note, told, effects(at, settings)]))


def effects(at: Project, settings: list[str]) -> str:
    """What a projection changes, order by order, where all orders are finished with and without it."""
    lines = []
    for row, modifier in PROJECTED.items():
        plain, projected = (runs(at, own, settings) for own in (row, f"{row} {modifier}"))
        if len(plain) == len(projected) == len(SEEDS):
            lines.append([f"`{row}`", f"`{modifier}`", *moved(plain, projected)])
    return grid(["host", "modifier", "moves ACC by", "forgetting by", "forgetting, task told, by"], lines, markdown=True)


def runs(at: Project, row: str, settings: list[str]) -> list[dict]:
    """The numbers of a row's finished runs."""
    places = [address(at.compose(*words(row), ORDER, *settings, f"seed={seed}")) for seed in SEEDS]
    return [own for place in places if (own := at.kept("class_orders", place, numbers))]


def numbers(summary: dict) -> dict:
    keys = ("acc", "forgetting", "incremental_average")
    parts = {part: {key: summary[part][key] for key in keys} for part in ("class_il", "task_il")}
    return {**parts, **{key: summary[key] for key in ("trained_parameters", "seconds")}}


def acc(found: list[dict]) -> float:
    return fmean(run["class_il"]["acc"] for run in found) if len(found) == len(SEEDS) else -1.0


def line(row: str, found: list[dict], *more: str) -> list[str]:
    if len(found) < len(SEEDS):
        return [f"`{row}`", "not run", *["–"] * (len(COLUMNS) + 1)]
    means = [mean_and_spread([run[part][key] for run in found]) for part, key in COLUMNS.values()]
    seconds = f"{fmean(run['seconds'] for run in found):.0f}"
    return [f"`{row}`", *means, *more, collect.count(found[0]["trained_parameters"]), seconds]
