"""Collects finished runs and makes tables of their results."""

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable, Sequence
from pathlib import Path

from cil.common.errors import UserError
from cil.common.tables import fitted, mean_and_spread, rounded, wrapped
from cil.metrics import impossible
from cil.runs.objective import chosen_on_test
from cil.runs.run_folder import RunDir

COLUMNS = {
    "ACC": ("class_il", "acc"),
    "forgetting": ("class_il", "forgetting"),
    "BT": ("class_il", "backward_transfer"),
    "avg inc": ("class_il", "incremental_average"),
    "task-IL": ("task_il", "acc"),
}
INPUTS = {"data_digest": "images", "split_digest": "split", "order_digest": "class order"}
SHOWN_ELSEWHERE = {"scenario", "method", "modifier"}  # options that the name of a row or the heading of its table says
NO_SETTING = {"seed", "reading", "outputs", "data", "log", "machine", "save", "objective"}  # not part of the configuration
NEEDED = ("scenario", "method", "digest", "seed", "config", "trained_parameters", "seconds")
MEANING = (
    "ACC: mean over tasks of the accuracy after the last one, among all classes; forgetting: mean over old tasks of best "
    "earlier accuracy minus last; BT: last accuracy minus that right after learning; avg inc: mean of ACC over the tasks; "
    "task-IL: ACC when the task is told."
)


def collect(outputs: Path) -> tuple[list[dict], list[str]]:
    """The summaries of all finished runs below a folder, and a line for each folder that was skipped, with the reason."""
    found, passed_over = [], []
    for folder in sorted(outputs.glob("*/*/*/seed*/")):
        try:
            if not RunDir(folder).is_done:
                passed_over.append(f"{folder}: not finished")
                continue
            summary = RunDir(folder).summary()
            if summary["address"] != str(folder.relative_to(outputs)):
                passed_over.append(f"{folder}: holds the run of another address, {summary['address']}")
            else:
                _ = [summary[part][key] for part, key in COLUMNS.values()], [summary[key] for key in NEEDED]
                found.append(summary)
        except UserError as mistake:
            passed_over.append(f"{folder}: {mistake}")
        except (KeyError, TypeError) as error:
            passed_over.append(f"{folder}: not a run's summary ({type(error).__name__})")
    return found, passed_over


def rows(summaries: Iterable[dict], addresses: Container[str] | None = None) -> list[list[dict]]:
    """Group runs that differ only in the seed, and sort the groups by ACC, lowest first. Other images are another group.

    `addresses`: keep only these runs.
    """
    groups = defaultdict(list)
    for summary in summaries:
        if addresses is None or summary["address"] in addresses:
            groups[summary["scenario"], summary["method"], summary["digest"], inputs(summary)].append(summary)
    return sorted(groups.values(), key=lambda group: sum(s["class_il"]["acc"] for s in group) / len(group))


def inputs(summary: dict) -> tuple[str, ...]:
    """The digests of the images, the split and the class order that a run saw; of the images alone if the seed decides both."""
    keys = ["data_digest"] if by_seed(summary) else INPUTS
    return tuple(str(summary.get("identity", {}).get(key)) for key in keys)


def chosen(summary: dict) -> str:
    """What a table adds to the name of a run: on which images its accuracies were measured or its settings chosen."""
    held_out = bool(summary["config"].get("scenario", {}).get("validation"))
    return ", validation" * held_out + ", chosen on test accuracy" * chosen_on_test(summary)


def by_seed(summary: dict) -> bool:
    """Whether each seed of this configuration has its own class order."""
    return summary["config"].get("scenario", {}).get("order") == "seed"


def by_scenario(summaries: Iterable[dict], *, markdown: bool = False) -> str:
    """The table of each scenario, and of each set of images if a scenario was run on several, below a heading if needed."""
    found: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for summary in summaries:
        found[summary["scenario"], inputs(summary)[0]].append(summary)
    names = Counter(scenario for scenario, _ in found)
    shown = []
    for (scenario, images), runs in sorted(found.items()):
        lines = [heading(scenario, images if names[scenario] > 1 else "", runs)] if len(found) > 1 else []
        shown.append("\n".join([*lines, table(rows(runs), markdown=markdown)]))
    return "\n\n".join(shown)


def heading(scenario: str, images: str, runs: Sequence[dict]) -> str:
    """The scenario, its folder of images if it is one, and, where `images` is the digest of one of several sets, that set."""
    path = next((run["config"].get("dataset", {}).get("path") for run in runs), None)
    counts = next((run["data_counts"] for run in runs if "data_counts" in run), None)
    name = " ".join(filter(None, [scenario, path]))
    if not images:
        return name
    told = "{classes} classes, {training} training and {test} test images".format(**counts) if counts else "images"
    return wrapped(f"{name}: {told} ({images})")


def table(groups: Sequence[list[dict]], *, markdown: bool = False) -> str:
    """A table with one line per configuration: mean ± standard deviation over seeds.

    The reading is shown if a method has both; settings are shown if they are needed to tell configurations apart.
    """
    head, titles = titled(groups)
    lines = []
    for group, title in zip(groups, titles):
        numbers = [mean_and_spread([summary[part][key] for summary in group]) for part, key in COLUMNS.values()]
        trained = count(group[0]["trained_parameters"])
        seconds = f"{sum(s['seconds'] for s in group) / len(group):.0f}"
        runs = f"{len(group)} orders" if by_seed(group[0]) else str(len(group))
        lines.append([*title, *numbers, trained, seconds, runs])
    names = ["  ".join(filter(None, title)) for title in titles]
    return fitted([*head, *COLUMNS, "trained", "seconds", "seeds"], lines, names, len(head), markdown=markdown)


def titled(groups: Sequence[list[dict]]) -> tuple[list[str], list[list[str]]]:
    """The first columns of the head, and the cells that name each configuration: method, reading and settings if needed."""
    readings = defaultdict(set)
    for group in groups:
        readings[group[0]["method"]].add(_reading(group))
    named = [(g[0]["method"], f" ({_reading(g)})" if len(readings[g[0]["method"]]) > 1 else "") for g in groups]
    named = [(name + chosen(group[0]), more) for (name, more), group in zip(named, groups)]
    many = len({(g[0]["scenario"], *name) for g, name in zip(groups, named)}) < len(groups)
    apart = list(map(" ".join, zip(told_apart(groups), other_inputs(groups)))) if many else []
    return ["method", *(["settings"] * many)], [["".join(name), *apart[n : n + 1]] for n, name in enumerate(named)]


def told_apart(groups: Sequence[list[dict]]) -> list[str]:
    """For each configuration, what was typed for it, without the words that all others of its method and reading share.

    Where the same was typed for several, for example since a file has changed in between, also the settings in which they
    differ from most of their runs.
    """
    words = [typed(group) for group in groups]
    kinds = [(group[0]["scenario"], group[0]["method"], _reading(group)) for group in groups]
    short = rounded(word for own in words for word in own)
    names = [
        " ".join(short[word] for word in own if not all(word in other for other in others))
        for own, others in zip(words, _alike(words, kinds))
    ]
    told = [(kind, chosen(group[0]), name) for kind, group, name in zip(kinds, groups, names)]
    differing = map(_differences, groups, _alike(groups, told))
    return [" ".join(filter(None, both)) for both in zip(names, differing)]


def _alike(items: Sequence, keys: Sequence[tuple]) -> list[list]:
    """For each item, all items with the same key."""
    by_key: dict[tuple, list] = defaultdict(list)
    for item, key in zip(items, keys):
        by_key[key].append(item)
    return [by_key[key] for key in keys]


def _differences(group: list[dict], others: Sequence[list[dict]]) -> str:
    """The settings in which a configuration differs from most runs of several."""
    if len({other[0]["digest"] for other in others}) == 1:
        return ""
    settings, own = [settings_of(other[0]["config"]) for other in others for _ in other], settings_of(group[0]["config"])
    usual = {key: _most([str(other.get(key)) for other in settings]) for key in {*own}.union(*settings)}
    differing = [f"{key}={own.get(key)}" for key in sorted(usual) if str(own.get(key)) != usual[key]]
    if not differing and len({str(other) for other in settings}) == 1:
        return f"folder {group[0]['digest']}"  # an earlier version named the folder by more than the settings
    return " ".join(differing)


def other_inputs(groups: Sequence[list[dict]]) -> list[str]:
    """For each group, the images, split and order that it saw, if its configuration was also run on others; else ""."""
    seen = [inputs(group[0]) for group in groups]
    same_settings = _alike(seen, [(group[0]["scenario"], group[0]["method"], group[0]["digest"]) for group in groups])
    return list(map(_unlike, seen, same_settings))


def _unlike(own: tuple[str, ...], every: Collection[tuple[str, ...]]) -> str:
    """The words that tell inputs from all of several, as `images 0123ab`; empty if all are equal."""
    differs = [len(set(column)) > 1 for column in zip(*every)]
    return " ".join(f"{word} {digest[:6]}" for word, digest, apart in zip(INPUTS.values(), own, differs) if apart)


def apart(runs: Iterable[dict]) -> list[tuple[str, list[dict]]]:
    """Runs that saw the same, so that nothing averages over others, each with the words that tell them from the others."""
    groups = defaultdict(list)
    for run in runs:
        groups[inputs(run)].append(run)
    return [(_unlike(seen, groups), same) for seen, same in groups.items()]


def _most(values: list[str]) -> str | None:
    """The value that more than half of the list has, or None."""
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def typed(group: list[dict]) -> list[str]:
    """The arguments of its command that may change the configuration, but for those that a table shows anyway."""
    command, settings, words = shlex.split(group[0].get("command", "")), flatten(group[0].get("config", {})), []
    for word in (word for word in command if "=" in word and not word.startswith("-")):
        key = word.lstrip("+~").partition("=")[0]
        if key in SHOWN_ELSEWHERE or key.startswith("hydra") or key.split(".")[0] in NO_SETTING:
            continue
        if "-m" in command and re.search(r",(?![^\[({]*[\])}])", word) and key in settings:  # earlier versions kept the sweep's
            word = f"{key}={settings[key]}"
        words.append(word)
    return words


def settings_of(config: dict) -> dict[str, object]:
    """The settings of a configuration that count as such: neither the seed nor folders, and not the reading."""
    counts = {f"machine.{key}": value for key, value in config.get("machine", {}).items() if key in ("precision", "tf32")}
    flat = flatten(config).items()
    return {key: value for key, value in flat if key.split(".")[0] not in NO_SETTING and value != {}} | counts


def flatten(node: object, prefix: str = "") -> dict[str, object]:
    """The values of nested dictionaries by their keys, joined with dots; an empty dictionary is a value."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    return {key: value for name, inner in node.items() for key, value in flatten(inner, f"{prefix}.{name}".strip(".")).items()}


def _reading(group: list[dict]) -> str:
    return group[0]["config"].get("reading", "paper")


def doubts(groups: Iterable[list[dict]]) -> list[str]:
    """One line for each run whose accuracy and forgetting cannot both be right."""
    known = (run for group in groups for run in group if run["class_il"]["forgetting"] is not None)
    pairs = ((run, impossible(run["class_il"]["acc"], run["class_il"]["forgetting"], run["tasks"])) for run in known)
    return [f"{run['address']}: {reason}" for run, reason in pairs if reason]


def count(parameters: int) -> str:
    """1234567 → 1.23 M."""
    for size, unit in ((10**6, " M"), (10**3, " k")):
        if parameters >= size:
            return f"{parameters / size:.2f}{unit}"
    return str(parameters)
