"""Documentation block on the methods of 2023 to 2026, over three class orders."""

from cil.common.errors import UserError
from cil.report.documents.baselines import SCENARIO, SEEDS, table
from cil.report.documents.project import Project, listed

VISION = (
    "class_mean", "fecam", "ranpac", "aper", "ease", "slca", "l2p", "dualprompt", "coda_prompt", "lae", "inflora", "sd_lora",
    "tuna",
)  # fmt: skip
CLIP = ("continual_clip", "rapf", "awpf")
ORDER = "scenario.order=seed"


def orders(at: Project, settings: list[str]) -> None:
    """Fill the block with a table for each kind of network, sorted by ACC, lowest first."""
    failed = at.side_by_side([[*words(row), f"seed={listed(SEEDS)}", *settings] for row in reversed((*VISION, *CLIP))])
    if failed:
        raise UserError(failed[0])
    tables = []
    for title, rows in (("`vit_tiny`, pre-trained", VISION), ("`clip_tiny`", CLIP)):
        groups = [(row, at.found(*words(row), *settings, seeds=SEEDS)) for row in rows]
        groups.sort(key=lambda pair: sum(run["class_il"]["acc"] for run in pair[1]))
        tables.append(f"{title}:\n\n{table(groups)}")
    note = (
        f"Mean and standard deviation over {len(SEEDS)} class orders (`{ORDER} seed={listed(SEEDS)}`), which also change the "
        "initial weights and the batches. `python scripts/fill_docs.py orders` makes both tables."
    )
    at.fill("orders", "\n\n".join([*tables, note]))


def words(row: str) -> list[str]:
    return [*f"method={row}".split(), SCENARIO, ORDER]
