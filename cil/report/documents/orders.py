"""Documentation block on the methods of 2023 to 2026, over three class orders. It starts no runs."""

from statistics import fmean

from cil.common.tables import grid, mean_and_spread
from cil.report.collect import count
from cil.report.documents.baselines import COLUMNS, SCENARIO, SEEDS
from cil.report.documents.project import Project, listed
from cil.report.documents.projection import moved
from cil.runs.run_folder import address

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


def orders(at: Project, settings: list[str]) -> None:
    """Fill the block from finished runs, and print the commands of those that are missing."""
    tables = []
    for title, rows in TABLES.items():
        finished = {row: runs(at, row, settings) for row in rows}
        for row in (row for row, found in finished.items() if len(found) < len(SEEDS)):
            print(f"python run.py -m {' '.join([*words(row), *settings])} seed={listed(SEEDS)}")
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


def words(row: str) -> list[str]:
    return [*f"method={row}".split(), SCENARIO, ORDER]


def runs(at: Project, row: str, settings: list[str]) -> list[dict]:
    """The numbers of a row's finished runs."""
    places = [address(at.compose(*words(row), *settings, f"seed={seed}")) for seed in SEEDS]
    return [own for place in places if (own := at.kept("class_orders", place, numbers))]


def numbers(summary: dict) -> dict:
    keys = ("acc", "forgetting", "incremental_average")
    parts = {part: {key: summary[part][key] for key in keys} for part in ("class_il", "task_il")}
    return {**parts, **{key: summary[key] for key in ("trained_parameters", "seconds")}}


def acc(found: list[dict]) -> float:
    return fmean(run["class_il"]["acc"] for run in found) if len(found) == len(SEEDS) else -1.0


def line(row: str, found: list[dict]) -> list[str]:
    if len(found) < len(SEEDS):
        return [f"`{row}`", "not run", *["–"] * (len(COLUMNS) + 1)]
    means = [mean_and_spread([run[part][key] for run in found]) for part, key in COLUMNS.values()]
    return [f"`{row}`", *means, count(found[0]["trained_parameters"]), f"{fmean(run['seconds'] for run in found):.0f}"]
