"""Documentation blocks on searches: one with Optuna, and the learning rates of the Split-Glyphs recipes on held-out images."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from cil.common.tables import grid, mean_and_spread
from cil.report.documents.project import Project, listed
from cil.runs.run_folder import address

SEARCH = ("hydra/sweeper=optuna", "method=finetune", "optim.lr=tag(log,interval(0.001,0.1))", "scenario.validation=0.1")
RECIPES = {  # their learning rates before the search; awpf has the recipe of rapf
    "rapf": 0.003, "ranpac": 0.1, "aper": 0.1, "finetune": 0.01, "coda_prompt": 0.005, "slca": 0.01, "dualprompt": 0.002,
    "ari": 0.05, "coop": 0.02, "l2p": 0.002, "finetune family=resnet32": 0.05, "joint family=resnet32": 0.02, "ease": 0.3,
    "attriclip": 0.02, "joint": 0.05, "lwf": 0.01, "ewc": 0.01, "derpp": 0.005, "bic": 0.01, "icarl": 0.01,
    "clip_prompt": 0.01, "dytox": 0.003, "raw": 0.003,
}  # fmt: skip
SEEDS = (10, 11, 12)
FACTORS = {"half": 0.5, "before": 1.0, "double": 2.0}
HELD_OUT = "scenario.validation=0.2"
Found = Mapping[tuple[str, int], float | None]  # the ACC by learning rate and seed; None if it is not run
LEAST, ERRORS = 0.5, 2  # points, and standard errors, by which another learning rate must be better


def optuna(at: Project, settings: list[str]) -> None:
    """Fill the block with the end of a search's output, and what the recipe's own learning rate reaches."""
    at.run("method=finetune", "scenario.validation=0.1", *settings)
    (own,) = at.found("method=finetune", "scenario.validation=0.1", *settings, seeds=range(1))
    at.fill("optuna", told(at.printed("run.py", "-m", *SEARCH, *settings), own))


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
    for row, before in RECIPES.items():
        words = [f"method={row.split()[0]}", *row.split()[1:]]
        values = [f"{before * factor:g}" for factor in FACTORS.values()]
        found = {
            (lr, seed): finished(at, *words, f"optim.lr={lr}", f"seed={seed}", *settings) for lr in values for seed in SEEDS
        }
        lines.append([f"`{row}`", f"{before:g}", *verdict(values, found)])
        if asked := missing(values, found):
            print(f"python run.py -m {' '.join([*words, *settings])} {' '.join(asked)} {HELD_OUT}")
    head = ["recipe", "rate before", *(f"ACC, {name}" for name in FACTORS), "better by", "by the rule"]
    at.fill("rates", f"{rule()}\n\n{grid(head, lines, markdown=True)}\n\n{note()}")


def rule() -> str:
    first, *others = SEEDS
    return (
        "The rule was fixed when only the runs of `rapf` and `ranpac` were known. "
        f"Half and double of each learning rate are first run with one seed ({first}). "
        f"If neither is better by at least {LEAST:g} points of ACC, the recipe keeps its rate. Otherwise the better of the two "
        f"and the rate before are run with the seeds {listed(others)} as well. The better one becomes the recipe's rate if it "
        f"is better by at least {LEAST:g} points in the mean of the {len(SEEDS)} seeds, and by more than {ERRORS} standard "
        "errors of the paired differences. Rates beyond half and double are not tried. Epochs and batch size bound the time on "
        "two cores and are not searched."
    )


def note() -> str:
    return (
        f"ACC on held-out images (`{HELD_OUT}`); *better by*: the better of half and double against the rate before, with the "
        "standard error where three seeds were run. All seeds hold out the same images, so the error does not cover the choice "
        "of images. The first seed also chose which of half and double is compared. A bold rate is now the recipe's own. "
        "`python scripts/fill_docs.py rates` fills this table from finished runs and prints the commands of the "
        "others, so `python scripts/fill_docs.py rates | sh` runs them. Type it twice: the second call runs the other seeds. "
        "Numbers of finished runs are kept in `docs/results/rates.json`."
    )


def finished(at: Project, *words: str) -> float | None:
    """The ACC of a finished run on held-out images, or None."""
    return at.kept("rates", address(at.compose(*words, HELD_OUT)), lambda summary: round(summary["class_il"]["acc"], 2))


def missing(rates: Sequence[str], found: Found) -> list[str]:
    """The learning rates and seeds that are to be run next, as words of a command; none if the rule can be applied."""
    first, *others = SEEDS
    for values, seeds in [(rates, [first]), (pair(rates, found), others)]:
        if any(found[lr, seed] is None for lr in values for seed in seeds):
            return [f"optim.lr={listed(values)}", f"seed={listed(seeds)}"]
    return []


def pair(rates: Sequence[str], found: Found) -> list[str]:
    """The rate before the search and the one that is better by enough with the first seed; nothing if there is none."""
    half, before, double = rates
    own, *both = (found[lr, SEEDS[0]] or 0.0 for lr in (before, half, double))
    return [before, better(rates, found)] if max(both) - own >= LEAST else []


def better(rates: Sequence[str], found: Found) -> str:
    half, _, double = rates
    return max((half, double), key=lambda lr: found[lr, SEEDS[0]] or 0.0)


def verdict(rates: Sequence[str], found: Found) -> list[str]:
    """The cells of a row. As long as not all seeds that are wanted are finished, they are those of the first seed."""
    _, before, _ = rates
    if any(found[lr, SEEDS[0]] is None for lr in rates):
        return [*["–"] * (len(rates) + 1), "not run"]
    unfinished, best, several = missing(rates, found), better(rates, found), pair(rates, found)
    seeds = {lr: SEEDS if lr in several and not unfinished else SEEDS[:1] for lr in rates}
    values = {lr: [found[lr, seed] or 0.0 for seed in seeds[lr]] for lr in rates}
    differences = [other - own for other, own in zip(values[best], values[before], strict=True)]
    mean = fmean(differences)
    by, last = f"{mean:.2f}", "more seeds" if unfinished else "kept"
    if len(differences) > 1:
        error = stdev(differences) / math.sqrt(len(differences))
        by, last = f"{mean:.2f} ± {error:.2f}", f"**{best}**" if mean >= LEAST and mean > ERRORS * error else "kept"
    return [*(mean_and_spread(values[lr]) for lr in rates), by, last]
