"""Documentation block on TinyImageNet with the recovered ViT-S/14. It starts no runs."""

import json
from collections.abc import Mapping, Sequence
from itertools import product
from math import isnan
from statistics import fmean

from cil.common.files import write_text
from cil.common.tables import grid, mean_and_spread
from cil.metrics import NAN, AccuracyMatrix
from cil.pictures.accuracy import draw_accuracy_and_forgetting, draw_curve
from cil.report.documents.project import Project
from cil.report.documents.projection import bases, moved
from cil.runs.run_folder import address, read_matrices

BACKBONES = {"vit_s14_photographs_selfsup": "without labels", "vit_s14_photographs": "with labels"}
FIRST = next(iter(BACKBONES))
HALF, WHOLE = "experiment=photographs/half_10tasks", "experiment=photographs/all_10tasks"
RUN_WITH = ["dataset.md5=878d2c49a582cf90eb58283b15b8b5ab", "machine.precision=bf16"]  # the settings of the kept numbers
ONCE = "train.first.epochs=1"  # lae and pet train longer in the first task by default
L2P, CODA, INFLORA = "l2p method.read=class optim.lr=0.0075", "coda_prompt optim.lr=0.004", "inflora optim.lr=0.002"
SLCA = "slca method.backbone_lr=0.00001"
LORA, PROMPT = f"pet method.kind=lora {ONCE}", f"pet method.kind=prompt {ONCE}"
HEAD = "finetune method.learn=head"
RANPAC = "ranpac method.features=2000"  # its search over 10,000 takes half an hour of a core
ROWS = {
    "vit_s14_photographs_selfsup": (
        "class_mean", "fecam", RANPAC, HEAD, f"{HEAD} scenario.tasks=1", "finetune", "aper", "ease", SLCA, L2P,
        f"{L2P} modifier=pgp", "dualprompt", "dualprompt modifier=pgp", CODA, f"lae {ONCE}", INFLORA, "sd_lora", "tuna", "mos",
        LORA, f"{LORA} modifier=pgp", PROMPT, f"{PROMPT} modifier=nsp2",
    ),
    "vit_s14_photographs": (
        "class_mean", RANPAC, HEAD, L2P, f"{L2P} modifier=pgp", "dualprompt", "dualprompt modifier=pgp",
    ),
}  # fmt: skip
AS_RELEASED = "reading=released dataset.train_per_class=40"  # the released PGP needs 384 images per task, the network's width
RELEASED_HOSTS = (f"{L2P} {AS_RELEASED}", f"dualprompt {AS_RELEASED}")
RELEASED = (*RELEASED_HOSTS, *(f"{host} modifier=pgp" for host in RELEASED_HOSTS))
CHANGES = {
    "modifier=pgp": (L2P, "dualprompt", LORA, *RELEASED_HOSTS),
    "modifier=nsp2": (PROMPT,),
    "modifier=freeze": (L2P, "dualprompt"),
}
WHOLE_HOSTS = (L2P, "dualprompt")
WHOLE_SEARCHED = {"l2p method.read=class": ("optim.lr", "0.001875", "0.0075")}
WHOLE_ROWS = ("class_mean", *WHOLE_HOSTS, *(f"{host} modifier=pgp" for host in WHOLE_HOSTS))
FEATURES = (L2P, "dualprompt")  # hosts whose features were also classified by class means
DRAWN = {
    "L2P": L2P, "L2P with PGP": f"{L2P} modifier=pgp", "DualPrompt": "dualprompt",
    "DualPrompt with PGP": "dualprompt modifier=pgp",
}  # fmt: skip
FRONT = {  # on the front page of the project
    "MOS": "mos", "RanPAC": RANPAC, "nearest class mean": "class_mean", "CODA-Prompt": CODA, "DualPrompt": "dualprompt",
    "L2P": L2P, "linear head, task after task": HEAD,
}  # fmt: skip
SEARCHED = {  # methods whose networks or heads learn by gradient alone: the rows above have the best of these learning rates
    "l2p": ("optim.lr", "0.001875", "0.0075", "0.03"), "l2p method.read=class": ("optim.lr", "0.0075", "0.03"),
    "dualprompt": ("optim.lr", "0.0028125", "0.01125"), "coda_prompt": ("optim.lr", "0.001", "0.004"),
    f"lae {ONCE}": ("optim.lr", "0.0028125", "0.01125"), "inflora": ("optim.lr", "0.0005", "0.002"),
    "sd_lora": ("optim.lr", "0.008", "0.032"), LORA: ("optim.lr", "0.0028125", "0.01125"),
    PROMPT: ("optim.lr", "0.0028125", "0.01125"), "slca": ("method.backbone_lr", "0.00001", "0.0001"),
}  # fmt: skip
CURVES = ("accuracy", "forgetting")
HELD_OUT = "scenario.validation=0.2"
SEEDS = (0, 1, 2, 3, 4)


def recovered(at: Project, settings: list[str]) -> None:
    """Fill the block with the record of each checkpoint and tables of what is finished; other cells say so. Draw the curves."""
    settings = settings or RUN_WITH
    half, whole = ([experiment, *settings] for experiment in (HALF, WHOLE))
    tables = [
        f"`{backbone}`, last block trained {told}:\n\n{table(at, backbone, ROWS[backbone], half)}"
        for backbone, told in BACKBONES.items()
    ]
    parts = [
        records(at),
        *tables,
        f"The released reading, on 40 images per class:\n\n{table(at, FIRST, RELEASED, half)}",
        f"Each row: `{command(half)}`.",
        f"All 200 classes in order, 20 per task, 60 training images of each:\n\n{table(at, FIRST, WHOLE_ROWS, whole)}",
        f"Each row: `{command(whole)}`.",
        f"Learning rates, and the *avg inc* that each reached on held-out images (`{HELD_OUT}`, seed 0, {BACKBONES[FIRST]}):",
        searches(at, SEARCHED, half),
        "What a modifier changes, seed by seed: mean ± standard deviation of the differences, with the p-value of a paired "
        "t-test. Gradient removed: the share of its squared norm, with the ranks of PGP's bases after the first and last task.",
        effects(at, CHANGES, half),
        "The same two tables for all 200 classes:",
        searches(at, WHOLE_SEARCHED, whole),
        effects(at, {"modifier=pgp": WHOLE_HOSTS}, whole),
        "What class means of a method's features reach in place of its head. No later task changes a mean:",
        of_features(at, half),
    ]
    at.fill("recovered", "\n\n".join(parts))
    draw(at, half)


def command(settings: Sequence[str]) -> str:
    return f"python run.py {' '.join(settings)} backbone=… seed=… method=…"


def draw(at: Project, settings: list[str]) -> None:
    """Draw what is finished: with and without PGP over all seeds, and methods beside each other on the first class order."""
    about = f"TinyImageNet, ViT-S/14 pre-trained {BACKBONES[FIRST]}"
    every = {name: runs(at, FIRST, row, settings) for name, row in DRAWN.items()}
    every = {name: found for name, found in every.items() if len(found) == len(SEEDS)}
    if every:
        accuracy, forgetting = ({name: means_of(found, key) for name, found in every.items()} for key in CURVES)
        draw_accuracy_and_forgetting(at.pictures / "photographs_pgp.svg", accuracy, forgetting, about)
    first = {name: one(at, FIRST, row, SEEDS[0], settings) for name, row in FRONT.items()}
    if front := {name: run["accuracy"] for name, run in first.items() if run}:
        draw_curve(at.pictures / "photographs.svg", front, "TinyImageNet, pre-trained ViT-S/14: accuracy over all classes seen")


def means_of(found: Sequence[dict], key: str) -> list[float]:
    """The mean curve over runs."""
    return [NAN if None in same else fmean(same) for same in zip(*(run[key] for run in found), strict=True)]


def records(at: Project) -> str:
    """What nearest class means reach on the unseen half of the classes, before and after."""
    lines = []
    for name, told in BACKBONES.items():
        made = record(at, name)
        percent = [f"{made['percent_on_the_unseen_half'][key]:.1f}" for key in ("frozen_class_token", "body", "recovered")]
        lines.append([told, *percent, f"`{made['weights_sha256'][:12]}`", f"`{made['command']}`"])
    head = ["last block trained", "token after block 11", "class token before", "after", "sha256", "command"]
    return grid(head, lines, markdown=True)


def record(at: Project, name: str) -> dict:
    """What scripts/recover.py wrote about the weights here; where there are none, the copy that was kept of it."""
    made, kept = at.root / "data" / "weights" / name / "record.json", at.root / "docs" / "results" / f"{name}.json"
    if made.exists():
        write_text(kept, made.read_text())
    return json.loads(kept.read_text())


def table(at: Project, backbone: str, rows: Sequence[str], settings: list[str]) -> str:
    """One line per row, the best last; what has no finished run says so and stands first."""
    found = {row: runs(at, backbone, row, settings) for row in rows}
    order = sorted(found, key=lambda row: fmean(run["class_il"]["acc"] for run in found[row]) if found[row] else -1.0)
    measures = ["ACC", "avg inc", "forgetting", "forgetting, task told", "seeds", "seconds", "images encoded"]
    lines = [[f"`{row}`", BACKBONES[backbone], *cells(found[row])] for row in order]
    return grid(["method", "last block", *measures], lines, markdown=True)


def cells(found: Sequence[dict]) -> list[str]:
    if not found:
        return ["not run", *["–"] * 6]
    columns = [[run["class_il"][key] for run in found] for key in ("acc", "incremental_average", "forgetting")]
    columns.append([run["task_il"]["forgetting"] for run in found])
    seconds, encodes = (fmean(run[key] for run in found) for key in ("seconds", "image_encodes"))
    return [*(mean_and_spread(values) for values in columns), str(len(found)), f"{seconds:.0f}", f"{encodes:,.0f}"]


def searches(at: Project, searched: Mapping[str, tuple[str, ...]], settings: list[str]) -> str:
    """The mean accuracy over tasks on held-out images, for each learning rate that was tried."""
    lines = []
    for row, (key, *rates) in searched.items():
        tried = [one(at, FIRST, f"{row} {key}={rate} {HELD_OUT}", 0, settings) for rate in rates]
        told = [f"{rate}: {found['class_il']['incremental_average']:.1f}" if found else f"{rate}: not run"
                for rate, found in zip(rates, tried, strict=True)]  # fmt: skip
        lines.append([f"`{row}`", f"`{key}`", ", ".join(told)])
    return grid(["searched", "setting", "value: avg inc"], lines, markdown=True)


def effects(at: Project, changes: Mapping[str, tuple[str, ...]], settings: list[str]) -> str:
    """What a modifier changes, seed by seed, where at least two seeds are finished with and without it."""
    lines = []
    for (backbone, told), (modifier, hosts) in product(BACKBONES.items(), changes.items()):
        for host in hosts:
            both = [[one(at, backbone, own, seed, settings) for own in (host, f"{host} {modifier}")] for seed in SEEDS]
            pairs = [(plain, changed) for plain, changed in both if plain and changed]
            if len(pairs) > 1:
                plain, changed = (list(every) for every in zip(*pairs))
                lines.append([f"`{host}`", told, f"`{modifier}`", *moved(plain, changed), removed(changed), str(len(pairs))])
    change = ["moves ACC by", "forgetting by", "forgetting, task told, by"]
    return grid(["host", "last block", "modifier", *change, "gradient removed", "seeds"], lines, markdown=True)


def removed(found: Sequence[dict]) -> str:
    """The share of the squared gradient norm that was removed, and the ranks of the bases after the first and last task."""
    lines = []
    for kind in found[0]["bases"]:
        first, last, share = (fmean(values) for values in zip(*(run["bases"][kind] for run in found), strict=True))
        lines.append(f"{kind} {100 * share:.0f} % (rank {first:.0f} to {last:.0f})")
    return ", ".join(lines) or "–"


def of_features(at: Project, settings: list[str]) -> str:
    """The head of a prompted network against class means of its features, which no later task changes."""
    lines = []
    for (backbone, told), host in product(BACKBONES.items(), FEATURES):
        found = runs(at, backbone, f"{host} modifier=class_means", settings)
        if found:
            ways = [[run[way][key] for run in found] for way in ("class_il", "class_means") for key in ("acc", "forgetting")]
            lines.append([f"`{host}`", told, *(mean_and_spread(values) for values in ways), str(len(found))])
    head = ["host", "last block", "ACC of its head", "forgetting", "ACC of class means", "forgetting", "seeds"]
    return grid(head, lines, markdown=True)


def runs(at: Project, backbone: str, row: str, settings: list[str]) -> list[dict]:
    return [run for seed in SEEDS if (run := one(at, backbone, row, seed, settings))]


def one(at: Project, backbone: str, row: str, seed: int, settings: list[str]) -> dict | None:
    """The numbers of a run that is finished, here or before elsewhere, with the weights of the record."""
    words = [*settings, *f"method={row}".split(), f"backbone={backbone}", f"seed={seed}"]
    own = at.kept("photographs", address(at.compose(*words)), lambda summary: numbers(at, summary))
    return own if own and own["weights"] == record(at, backbone)["weights_sha256"] else None


def numbers(at: Project, summary: dict) -> dict:
    """What the tables and curves need of a run's summary, accuracies and events."""
    keys = ("acc", "incremental_average", "forgetting")
    modifier = [*(summary["config"].get("modifier") or {})]
    matrix = read_matrices(at.outputs / summary["address"])["class_il"]
    own = {
        **{kind: {key: summary[kind][key] for key in keys} for kind in ("class_il", "task_il")},
        **{key: summary[key] for key in ("seconds", "image_encodes")},
        "bases": {kind: [*of] for kind, of in bases(at, [summary] if "pgp" in modifier else []).items()},
        "weights": summary["identity"]["weights_sha256"],
        **{
            key: [None if isnan(value) else round(value, 3) for value in curve]
            for key, curve in zip(CURVES, (matrix.curve(), matrix.forgetting_curve()), strict=True)
        },
    }
    if "class_means" in modifier:
        rows = [event["correct"] for event in at.events(summary) if event.get("modifier") == "ClassMeans"]
        means = AccuracyMatrix.of_percents(rows)
        own["class_means"] = {"acc": means.average(), "forgetting": means.forgetting()}
    return own
