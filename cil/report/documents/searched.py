"""Documentation blocks on searches: one with Optuna, and the learning rates of the Split-Glyphs recipes on held-out images."""

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from statistics import fmean, stdev

from cil.common.tables import grid, mean_and_spread
from cil.report.documents.project import Project, listed
from cil.runs.run_folder import RunDir, address

SEARCH = ("hydra/sweeper=optuna", "method=finetune", "optim.lr=tag(log,interval(0.001,0.1))", "scenario.validation=0.1")
RECIPES = (
    "rapf", "ranpac", "aper", "finetune", "coda_prompt", "slca", "dualprompt", "ari", "coop", "l2p", "finetune family=resnet32",
    "joint family=resnet32", "ease", "attriclip", "joint", "lwf", "ewc", "derpp", "bic", "icarl", "clip_prompt", "dytox", "raw",
)  # fmt: skip  # the cheapest first; awpf has the recipe of rapf
SEEDS = (10, 11, 12)
FACTORS = {"half": 0.5, "today": 1.0, "double": 2.0}
HELD_OUT = "scenario.validation=0.2"
LEAST, ERRORS = 0.5, 2  # points, and standard errors, by which another learning rate must be better


def optuna(at: Project, settings: list[str]) -> None:
    """Fill the block with the end of a search's output, and what the recipe's own learning rate reaches."""
    at.run("method=finetune", "scenario.validation=0.1", *settings)
    (own,) = at.found("method=finetune", "scenario.validation=0.1", *settings, seeds=range(1))
    command = [sys.executable, "run.py", "-m", *SEARCH, *settings]
    ended = subprocess.run(command, cwd=at.root, capture_output=True, text=True, check=True, env=os.environ)
    at.fill("optuna", told(ended.stdout, own))


def told(output: str, own: dict) -> str:
    lines = output[output.index("best of ") :].splitlines()[:3]
    typed = " ".join(f"'{word}'" if "(" in word else word for word in SEARCH)
    average = own["class_il"]["incremental_average"]
    lr = own["config"]["optim"]["lr"]
    before = f"The learning rate of the recipe, {lr:g}, has an average of {average:.1f} on the same images."
    return "\n".join(["```", f"$ python run.py -m {typed}", "…", *lines, "```", "", before])


def rates(at: Project, settings: list[str]) -> None:
    """Fill the block from finished runs, and print the commands of those that are missing."""
    lines = []
    for row in RECIPES:
        words, today = [f"method={row.split()[0]}", *row.split()[1:]], rate(at, row)
        values = [f"{today * factor:g}" for factor in FACTORS.values()]
        runs = [[finished(at, *words, f"optim.lr={lr}", f"seed={seed}", *settings) for seed in SEEDS] for lr in values]
        if all(run is not None for group in runs for run in group):
            lines.append([f"`{row}`", f"{today:g}", *verdict(values, [[run or 0.0 for run in group] for group in runs])])
        else:
            lines.append([f"`{row}`", f"{today:g}", *["–"] * (len(FACTORS) + 1), "not run"])
            print(f"python run.py -m {' '.join(words)} optim.lr={listed(values)} seed={listed(SEEDS)} {HELD_OUT}")
    head = ["recipe", "learning rate", *(f"ACC, {name}" for name in FACTORS), "better by", "by the rule"]
    at.fill("rates", f"{rule()}\n\n{grid(head, lines, markdown=True)}\n\n{note()}")


def rule() -> str:
    return (
        "The rule was fixed before the runs: a learning rate is kept, unless half or double of it is better by at least "
        f"{LEAST:g} points of ACC and by more than {ERRORS} standard errors of the paired differences over {len(SEEDS)} seeds. "
        "Epochs and batch size bound the time on two cores and are not searched."
    )


def note() -> str:
    return (
        f"ACC on held-out images (`{HELD_OUT}`), seeds {listed(SEEDS)}; *better by*: the better of half and double against "
        "today's value, mean ± standard error. All seeds hold out the same images, so the error does not cover the choice of "
        "images. A bold learning rate is not yet that of the recipe, since the tables that use it must be made again first. "
        "`python scripts/fill_docs.py rates` fills this table from finished runs and prints the commands of the others, "
        "cheapest first, so `python scripts/fill_docs.py rates | sh` runs them."
    )


def rate(at: Project, row: str) -> float:
    return at.compose(f"method={row.split()[0]}", *row.split()[1:])["optim"]["lr"]


def finished(at: Project, *words: str) -> float | None:
    """The ACC of a finished run on held-out images, or None."""
    run = RunDir(at.outputs / address(at.compose(*words, HELD_OUT)))
    return run.summary()["class_il"]["acc"] if run.is_done else None


def verdict(rates: Sequence[str], accuracies: Sequence[Sequence[float]]) -> list[str]:
    """The cells of a row whose runs are finished; `accuracies` has one list for each learning rate, with one value per seed."""
    _, today, _ = accuracies
    best = max((0, 2), key=lambda place: fmean(accuracies[place]))
    differences = [other - own for other, own in zip(accuracies[best], today, strict=True)]
    mean, error = fmean(differences), stdev(differences) / math.sqrt(len(differences))
    changes = mean >= LEAST and mean > ERRORS * error
    cells = [mean_and_spread(group) for group in accuracies]
    return [*cells, f"{mean:.2f} ± {error:.2f}", f"**{rates[best]}**" if changes else "kept"]
