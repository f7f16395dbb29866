"""The blocks on gradient projection, and on single switches between a paper's text and its released code."""

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
ENERGIES = (0.9, 1.0)  # 1: a basis holds whatever was met, so that little can move after the first task


def prompts(at: Project, settings: list[str]) -> None:
    """What projection does to its hosts, prompts on CLIP, and the records of the shipped weights."""
    five, three = f"seed={listed(SEEDS)}", f"seed={listed(FEWER)}"
    both = f"reading={listed(READINGS)}"
    at.run(f"method={listed(HOSTS)}", "modifier=none,pgp", both, SCENARIO, five, *settings)
    at.run("method=continual_clip", SCENARIO, five, *settings)
    at.run("method=coop", SCENARIO, three, *settings)
    at.run("method=attriclip", both, SCENARIO, three, *settings)
    at.run("method=clip_prompt", "modifier=none,pgp", both, SCENARIO, three, *settings)
    for energy in ENERGIES:
        at.run(f"method={listed(HOSTS)}", "modifier=pgp", SCENARIO, three, *of_energy(energy))
    at.fill("projection", projection(at))
    at.fill("clip", clip(at))
    pictures(at)
    at.fill("pretraining", pretraining(at))


def projection(at: Project) -> str:
    """What PGP does to its hosts, and why: ranks of its bases, shares of the gradient that it removes, other energies."""
    effects, reasons, energies = [], [], []
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
        removed = ", ".join(f"{kind} {100 * share:.0f} %" for kind, (_, _, share) in bases(at, projected).items())
        energies.append([host, f"{energy:g}", *moved(plain, projected), removed, str(len(FEWER))])
    change = ["ACC, with PGP less without", "forgetting", "forgetting, task told"]
    tables = [
        grid(["host", "reading", *change, "seeds"], effects, markdown=True),
        grid(["host", "reading", "site", "rank after task 1", "after the last", "gradient removed"], reasons, markdown=True),
        grid(["host", "energy", *change, "gradient removed", "seeds"], energies, markdown=True),
    ]
    note = (
        "Mean ± standard deviation of the differences, seed by seed, with the p of a paired t-test. Rank: directions in the "
        "basis, of 128 (a head of `dualprompt` in the paper's reading: of 32), mean over seeds, blocks and heads. Removed: "
        "share of the squared gradient, mean over tasks 2 to 10. Energy: the paper's reading with this share for all sites."
    )
    return "\n\n".join([*tables, note])


def moved(before: list[dict], after: list[dict]) -> list[str]:
    """How ACC, forgetting, and forgetting when the task is told, differ."""
    metrics = (("class_il", "acc"), ("class_il", "forgetting"), ("task_il", "forgetting"))
    return [str(paired(*([run[part][name] for run in runs] for runs in (before, after)))) for part, name in metrics]


def of_energy(energy: float) -> list[str]:
    return [f"modifier.pgp.energy.{kind}={energy}" for kind in ("token", "key", "prefix")]


def bases(at: Project, runs: list[dict]) -> dict[str, tuple[float, float, float]]:
    """Of each kind of site: mean rank after the first and last task, mean share removed."""
    ranks, removed = defaultdict(lambda: ([], [])), defaultdict(list)
    for summary in runs:
        lines = (at.outputs / summary["address"] / "events.jsonl").read_text().splitlines()
        told = [event for event in map(json.loads, lines) if event.get("modifier") == "PGP"]
        for site in told[0]["ranks"]:
            kind = site.split(".")[0]
            for place, event in zip(ranks[kind], (told[0], told[-1]), strict=True):
                place += event["ranks"][site]
            removed[kind] += [event["removed"][site] for event in told[1:]]
    mean = statistics.fmean
    return {kind: (mean(first), mean(last), mean(removed[kind])) for kind, (first, last) in ranks.items()}


def switches(at: Project, settings: list[str]) -> None:
    """The paper's reading with one switch at a time set as the released code has it."""
    lines = []
    for host in HOSTS:
        for modifier in ("none", "pgp"):
            words = [f"method={host}", f"modifier={modifier}", SCENARIO]
            at.run(*words, f"seed={listed(FEWER)}", *settings)
            before = at.found(*words, seeds=FEWER)
            for key, values in differing(at, words).items():
                if modifier == "pgp" and not key.startswith("modifier."):
                    continue  # measured without it
                change = [f"{key}={json.dumps(values[1])}", *together(at, key, words)]
                at.run(*words, f"seed={listed(FEWER)}", *change, *settings)
                after = at.found(*words, *change, seeds=FEWER)
                what = host if modifier == "none" else f"{host}+{modifier}"
                lines.append([what, f"`{key}`", *(f"`{json.dumps(value)}`" for value in values), *moved(before, after)])
    head = ["row", "switch", "paper", "released", "moves ACC by", "forgetting by", "forgetting, task told, by"]
    note = (
        f"Split-Glyphs, {len(FEWER)} seeds: the paper's reading with this switch alone set as the released code has it, less "
        "the paper's reading; mean ± standard deviation, with the p of a paired t-test. It was made by "
        "`python scripts/fill_docs.py switches`."
    )
    at.fill("switches", f"{grid(head, lines, markdown=True)}\n\n{note}")
    print(grid(head, lines))


def differing(at: Project, words: list[str]) -> dict[str, tuple[object, object]]:
    """The switches of a method and its modifiers, with both values; `test_batch` goes with those that need it."""
    found = generated.differing(at, words)
    kept = [key for key in found if key.startswith(("method.", "modifier.")) and key != "method.test_batch"]
    return {key: found[key] for key in kept}


def together(at: Project, key: str, words: list[str]) -> list[str]:
    """Answers that depend on their batch need one that is said."""
    batch = at.compose(*words, "reading=released")["method"]["test_batch"]
    return [f"method.test_batch={batch}"] if key in ("method.vote_test", "method.scrambled") else []
