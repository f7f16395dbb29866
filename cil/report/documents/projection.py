"""Documentation blocks on gradient projection (PGP), and on single settings that differ between paper and released code."""

import json
import statistics
from collections import defaultdict
from itertools import product

from cil.common.tables import grid
from cil.report.documents import generated
from cil.report.documents.clip import clip, pictures
from cil.report.documents.project import Project, listed
from cil.report.documents.records import pretraining
from cil.report.paired import paired

READINGS, SCENARIO = ("paper", "released"), "scenario=glyphs_10tasks"
HOSTS = ("l2p", "dualprompt")
SEEDS, FEWER = range(5), range(3)
ENERGIES = (0.9, 1.0)  # 1: a basis holds all directions met so far, so that little can change after task 1


def prompts(at: Project, settings: list[str]) -> None:
    """Run the experiments and fill the blocks on PGP, on prompts for CLIP and on the shipped weights."""
    five, three = f"seed={listed(SEEDS)}", f"seed={listed(FEWER)}"
    both = f"reading={listed(READINGS)}"
    at.run("method=continual_clip", SCENARIO, five, *settings)
    more = [SCENARIO, *settings, "hydra/launcher=stacked"]
    at.run(f"method={listed(HOSTS)}", "modifier=none,pgp", both, five, *more)
    at.run("method=coop", three, *more)
    at.run("method=attriclip", both, three, *more)
    at.run("method=clip_prompt", "modifier=none,pgp", both, three, *more)
    for energy in ENERGIES:
        at.run(f"method={listed(HOSTS)}", "modifier=pgp", three, *of_energy(energy), *more)
    at.fill("projection", projection(at))
    at.fill("clip", clip(at))
    pictures(at)
    at.fill("pretraining", pretraining(at))


def projection(at: Project) -> str:
    """Tables of PGP's effect on its host methods, of its bases (rank, share of gradient removed), and of other energies."""
    effects: list[list[str]] = []
    reasons: list[list[str]] = []
    energies: list[list[str]] = []
    for host in (*HOSTS, "clip_prompt"):
        seeds = SEEDS if host in HOSTS else FEWER
        for reading in READINGS:
            words = [f"method={host}", f"reading={reading}", SCENARIO]
            plain, projected = (at.found(*words, f"modifier={modifier}", seeds=seeds) for modifier in ("none", "pgp"))
            effects.append([host, reading, *moved(plain, projected), str(len(seeds))])
            for site, (first, last, removed) in bases(at, projected).items():
                reasons.append([host, reading, site, f"{first:.1f}", f"{last:.1f}", f"{100 * removed:.1f} %"])
    for host, energy in product(HOSTS, ENERGIES):
        words = [f"method={host}", SCENARIO]
        plain = at.found(*words, seeds=FEWER)
        projected = at.found(*words, "modifier=pgp", *of_energy(energy), seeds=FEWER)
        shares = ", ".join(f"{kind} {100 * share:.0f} %" for kind, (_, _, share) in bases(at, projected).items())
        energies.append([host, f"{energy:g}", *moved(plain, projected), shares, str(len(FEWER))])
    change = ["ACC, with PGP less without", "forgetting", "forgetting, task told"]
    tables = [
        grid(["host", "reading", *change, "seeds"], effects, markdown=True),
        grid(["host", "reading", "site", "rank after task 1", "after the last", "gradient removed"], reasons, markdown=True),
        grid(["host", "energy", *change, "gradient removed", "seeds"], energies, markdown=True),
    ]
    note = (
        "Mean ± standard deviation of the seed-by-seed differences, with the p-value of a paired t-test. Rank: number of basis "
        "directions, out of 128 (out of 32 for a head of `dualprompt` in the paper's reading), mean over seeds, blocks and "
        "heads. Gradient removed: share of the squared gradient norm, mean over tasks 2 to 10. Energy: the paper's reading "
        "with this energy at all sites."
    )
    return "\n\n".join([*tables, note])


def moved(before: list[dict], after: list[dict]) -> list[str]:
    """Paired differences in ACC, forgetting, and task-IL forgetting."""
    metrics = (("class_il", "acc"), ("class_il", "forgetting"), ("task_il", "forgetting"))
    return [str(paired(*([run[part][name] for run in runs] for runs in (before, after)))) for part, name in metrics]


def of_energy(energy: float) -> list[str]:
    return [f"modifier.pgp.energy.{kind}={energy}" for kind in ("token", "key", "prefix")]


def bases(at: Project, runs: list[dict]) -> dict[str, tuple[float, float, float]]:
    """For each kind of site: mean rank after the first and the last task, and mean share of the gradient removed."""
    ranks: dict[str, tuple[list, list]] = defaultdict(lambda: ([], []))
    removed: dict[str, list[float]] = defaultdict(list)
    for summary in runs:
        events = [event for event in at.events(summary) if event.get("modifier") == "PGP"]
        for site in events[0]["ranks"]:
            kind = site.split(".")[0]
            for place, event in zip(ranks[kind], (events[0], events[-1]), strict=True):
                place += event["ranks"][site]
            removed[kind] += [event["removed"][site] for event in events[1:]]
    mean = statistics.fmean
    return {kind: (mean(first), mean(last), mean(removed[kind])) for kind, (first, last) in ranks.items()}


def switches(at: Project, settings: list[str]) -> None:
    """Fill the block on the paper's reading with one setting at a time as in the released code."""
    lines, more = [], [*settings, "hydra/launcher=stacked"]
    for host in HOSTS:
        for modifier in ("none", "pgp"):
            words = [f"method={host}", f"modifier={modifier}", SCENARIO]
            at.run(*words, f"seed={listed(FEWER)}", *more)
            before = at.found(*words, seeds=FEWER)
            for key, values in differing(at, words).items():
                if modifier == "pgp" and not key.startswith("modifier."):
                    continue  # already measured without the modifier
                change = [f"{key}={json.dumps(values[1])}", *together(at, key, words)]
                at.run(*words, f"seed={listed(FEWER)}", *change, *more)
                after = at.found(*words, *change, seeds=FEWER)
                what = host if modifier == "none" else f"{host}+{modifier}"
                lines.append([what, f"`{key}`", *(f"`{json.dumps(value)}`" for value in values), *moved(before, after)])
    head = ["row", "switch", "paper", "released", "moves ACC by", "forgetting by", "forgetting, task told, by"]
    note = (
        f"Split-Glyphs, {len(FEWER)} seeds: the paper's reading with only this switch set as in the released code, minus the "
        "paper's reading. Mean ± standard deviation, with the p-value of a paired t-test. Made by "
        "`python scripts/fill_docs.py switches`."
    )
    at.fill("switches", f"{grid(head, lines, markdown=True)}\n\n{note}")
    print(grid(head, lines))


def differing(at: Project, words: list[str]) -> dict[str, tuple[object, object]]:
    """The settings of a method and its modifiers that depend on the reading, with both values; without `test_batch`."""
    found = generated.differing(at, words)
    kept = [key for key in found if key.startswith(("method.", "modifier.")) and key != "method.test_batch"]
    return {key: found[key] for key in kept}


def together(at: Project, key: str, words: list[str]) -> list[str]:
    """The released test batch size, for settings that make predictions depend on the test batch."""
    batch = at.compose(*words, "reading=released")["method"]["test_batch"]
    return [f"method.test_batch={batch}"] if key in ("method.vote_test", "method.scrambled") else []
