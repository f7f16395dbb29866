"""The tables of the READMEs: runs what is missing, then writes them between their markers.

python scripts/readme.py prompts                        # what projection does, prompts on CLIP; five or three seeds
python scripts/readme.py switches                       # each switch between a paper and its code, one at a time
python scripts/readme.py across                         # two alphabets, one after the other: FT, BT, the union
python scripts/readme.py sweeps                         # AttriCLIP's tables 6, 7 and 8 on Split-Glyphs
python scripts/readme.py adapters                       # RAPF and AWPF: merges, λ, features on a plane, what is encoded
python scripts/readme.py locality                       # DyTox and Raw from scratch, three attentions, where patches look
python scripts/readme.py baselines                      # the rows that every table compares with, pre-trained and from scratch
python scripts/readme.py text                           # what packed text saves
python scripts/readme.py photographs dataset.md5=…      # the TinyImageNet rows

The table of results is made by scripts/reproduce.py glyphs.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.report.collect import collect, rows, table
from cil.report.paired import paired
from cil.report.table import fill, grid, number
from cil.rundir import address
from scripts import readme_adapters, readme_baselines, readme_locality
from scripts.compose import ROOT, compose, guarded
from scripts.readme_clip import alphabets, clip, pictures, sweeps
from scripts.runs import OUTPUTS, found, listed, run

PAGE, METHODS = ROOT / "README.md", ROOT / "cil" / "methods" / "README.md"
READINGS, SCENARIO = ("paper", "released"), "scenario=glyphs_10tasks"
HOSTS = ("l2p", "dualprompt")
SEEDS, FEWER = range(5), range(3)
ENERGIES = (0.9, 1.0)  # 1: a basis holds whatever was met, so that little can move after the first task


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "table", choices=("prompts", "switches", "across", "sweeps", "adapters", "locality", "baselines", "photographs", "text")
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    asked = parser.parse_args()
    make = {
        "prompts": prompts,
        "switches": switches,
        "across": lambda settings: fill(PAGE, "across", alphabets(settings)),
        "sweeps": lambda settings: fill(METHODS, "sweeps", sweeps(settings)),
        "adapters": adapters,
        "locality": locality,
        "baselines": lambda settings: fill(PAGE, "baselines", readme_baselines.baselines(settings)),
        "photographs": photographs,
        "text": text,
    }[asked.table]
    return guarded(lambda: make(asked.settings))


# --- README.md ----------------------------------------------------------------------------------------------------------


def prompts(settings: list[str]) -> None:
    """What projection does to its hosts, prompts on CLIP, and the records of the shipped weights."""
    five, three = f"seed={listed(SEEDS)}", f"seed={listed(FEWER)}"
    both = f"reading={listed(READINGS)}"
    run(f"method={listed(HOSTS)}", "modifier=none,pgp", both, SCENARIO, five, *settings)
    run("method=continual_clip", SCENARIO, five, *settings)
    run("method=coop", SCENARIO, three, *settings)
    run("method=attriclip", both, SCENARIO, three, *settings)
    run("method=clip_prompt", "modifier=none,pgp", both, SCENARIO, three, *settings)
    for energy in ENERGIES:
        run(f"method={listed(HOSTS)}", "modifier=pgp", SCENARIO, three, *of_energy(energy))
    fill(PAGE, "projection", projection())
    fill(PAGE, "clip", clip())
    pictures()
    fill(PAGE, "pretraining", pretraining())


def projection() -> str:
    """What PGP does to its hosts, and why: ranks of its bases, shares of the gradient that it removes, other energies."""
    effects, reasons, energies = [], [], []
    for host in (*HOSTS, "clip_prompt"):
        seeds = SEEDS if host in HOSTS else FEWER
        for reading in READINGS:
            words = [f"method={host}", f"reading={reading}", SCENARIO]
            plain, projected = (found(*words, f"modifier={modifier}", seeds=seeds) for modifier in ("none", "pgp"))
            effects.append([host, reading, *moved(plain, projected), str(len(seeds))])
            for site, (first, last, removed) in bases(projected).items():
                reasons.append([host, reading, site, f"{first:.1f}", f"{last:.1f}", f"{100 * removed:.1f} %"])
    for host, energy in product(HOSTS, ENERGIES):
        words = [f"method={host}", SCENARIO]
        plain = found(*words, seeds=FEWER)
        projected = found(*words, "modifier=pgp", *of_energy(energy), seeds=FEWER)
        removed = ", ".join(f"{kind} {100 * share:.0f} %" for kind, (_, _, share) in bases(projected).items())
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


def bases(runs: list[dict]) -> dict[str, tuple[float, float, float]]:
    """Of each kind of site: mean rank after the first and last task, mean share removed."""
    ranks, removed = defaultdict(lambda: ([], [])), defaultdict(list)
    for summary in runs:
        lines = (OUTPUTS / summary["address"] / "events.jsonl").read_text().splitlines()
        told = [event for event in map(json.loads, lines) if event.get("modifier") == "PGP"]
        for site in told[0]["ranks"]:
            kind = site.split(".")[0]
            for place, event in zip(ranks[kind], (told[0], told[-1]), strict=True):
                place += event["ranks"][site]
            removed[kind] += [event["removed"][site] for event in told[1:]]
    mean = statistics.fmean
    return {kind: (mean(first), mean(last), mean(removed[kind])) for kind, (first, last) in ranks.items()}


def pretraining() -> str:
    """What the records of the shipped weights say."""
    head = ["weights", "nearest class mean", "zero-shot by name", "minutes", "threads", "command"]
    lines = []
    for file in sorted((ROOT / "cil" / "weights").glob("*.json")):
        record = json.loads(file.read_text())
        percent = [number(record["percent_on_the_benchmark"].get(key)) for key in head[1:3]]
        command = f"`{record['command'].removeprefix('python scripts/pretrain.py ')}`"
        lines.append([file.stem, *percent, f"{record['seconds'] / 60:.0f}", str(record["threads"]), command])
    text = "Percent correct on the 100 classes. The commands go on from `python scripts/pretrain.py`."
    return f"{grid(head, lines, markdown=True)}\n\n{text}"


def text(settings: list[str]) -> None:
    """`scripts/bench.py text` as a table."""
    told = subprocess.run(
        [sys.executable, ROOT / "scripts" / "bench.py", "text", "--rounds", "1"], capture_output=True, text=True, check=True
    )
    found = map(json.loads, told.stdout.splitlines())
    lines = [[row["what"], f"{row['times_faster']:.1f}", f"{row['seconds']:.2f}"] for row in found]
    fill(PAGE, "text", grid(["what", "times faster", "seconds"], lines, markdown=True))


def adapters(settings: list[str]) -> None:
    """RAPF and AWPF on the same features."""
    readme_adapters.planes(settings)
    for block in ("adapters", "fusions", "lambda"):
        fill(PAGE, block, getattr(readme_adapters, {"lambda": "sweep"}.get(block, block))(settings))
    fill(PAGE, "features", readme_adapters.features())
    fill(PAGE, "together", readme_adapters.clock())


def locality(settings: list[str]) -> None:
    """Transformers from scratch."""
    fill(PAGE, "locality", readme_locality.locality(settings))
    readme_locality.maps(settings)
    fill(PAGE, "scratch", f"{readme_locality.cost()} {readme_locality.clock()}")


def photographs(settings: list[str]) -> None:
    """experiment=tinyimagenet_small, with its identity."""
    words = ["experiment=tinyimagenet_small", *settings]
    run(*words, "method=finetune,joint")
    runs = [address(compose(*words, f"method={method}")) for method in ("finetune", "joint")]
    text = table(rows(collect(OUTPUTS)[0], set(runs)), markdown=True)
    identity = json.loads((OUTPUTS / runs[-1] / "summary.json").read_text())["identity"]
    known = [f"{key.replace('_', ' ')} `{identity[key]}`" for key in ("data_digest", "order_digest", "split_digest")]
    seen = f"Trained on: {identity['train_transform']}. Tested on: {identity['test_transform']}."
    command = f"python scripts/readme.py photographs {' '.join(settings)}".strip()
    told = f"One seed, from scratch; {', '.join(known)}; runs `{'`, `'.join(runs)}`. {seen}"
    fill(PAGE, "photographs", f"{text}\n\n{told} `{command}` made it.")
    print(text)


# --- cil/methods/README.md ----------------------------------------------------------------------------------------------


def switches(settings: list[str]) -> None:
    """The paper's reading with one switch at a time set as the released code has it."""
    lines = []
    for host in HOSTS:
        for modifier in ("none", "pgp"):
            words = [f"method={host}", f"modifier={modifier}", SCENARIO]
            run(*words, f"seed={listed(FEWER)}", *settings)
            before = found(*words, seeds=FEWER)
            for key, values in differing(words).items():
                if modifier == "pgp" and not key.startswith("modifier."):
                    continue  # measured without it
                change = [f"{key}={json.dumps(values[1])}", *together(key, words)]
                run(*words, f"seed={listed(FEWER)}", *change, *settings)
                after = found(*words, *change, seeds=FEWER)
                what = host if modifier == "none" else f"{host}+{modifier}"
                lines.append([what, f"`{key}`", *(f"`{json.dumps(value)}`" for value in values), *moved(before, after)])
    head = ["row", "switch", "paper", "released", "moves ACC by", "forgetting by", "forgetting, task told, by"]
    note = (
        f"Split-Glyphs, {len(FEWER)} seeds: the paper's reading with this switch alone set as the released code has it, less "
        "the paper's reading; mean ± standard deviation, with the p of a paired t-test. It was made by "
        "`python scripts/readme.py switches`."
    )
    fill(METHODS, "switches", f"{grid(head, lines, markdown=True)}\n\n{note}")
    print(grid(head, lines))


def differing(words: list[str]) -> dict[str, tuple[object, object]]:
    """The settings that a reading decides, with both values; `test_batch` goes with those that need it."""
    paper, released = (compose(*words, f"reading={reading}") for reading in READINGS)
    nodes = [("method", paper["method"], released["method"])]
    nodes += [(f"modifier.{name}", node, released["modifier"][name]) for name, node in paper["modifier"].items()]
    return {f"{place}.{key}": (one[key], two[key]) for place, one, two in nodes for key in one
            if one[key] != two[key] and key != "test_batch"}  # fmt: skip


def together(key: str, words: list[str]) -> list[str]:
    """Answers that depend on their batch need one that is said."""
    batch = compose(*words, "reading=released")["method"]["test_batch"]
    return [f"method.test_batch={batch}"] if key in ("method.vote_test", "method.scrambled") else []


if __name__ == "__main__":
    sys.exit(main())
