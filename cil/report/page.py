"""One self-contained HTML page of finished runs: no script, no network, the same bytes for the same runs."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from cil.common.tables import number
from cil.metrics import COUNTS, DEFINITIONS
from cil.report import svg
from cil.report.collect import COLUMNS, count, doubts, typed
from cil.report.configurations import (
    Entry,
    bullets,
    configuration,
    entries,
    facts,
    pictures,
    plural,
    slug,
    small,
    spelled,
)
from cil.report.numbers import Numbers
from cil.report.published import Number, meaning

ALL, FEW = 12, 6  # configurations that figures show: all where there are no more, else one of each name, and these at least
OWN = {name: key if part == "class_il" else f"{part}.{key}" for name, (part, key) in COLUMNS.items()}
OTHER = {"dataset-IL": "dataset_il.acc", "leaky-IL": "leaky_il.acc"}  # columns, where that was counted in a third of the runs
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # a browser fetches nothing, whatever stands in it
ALIKE = {"data_digest": "data set", "split_digest": "split", "order_digest": "class order", "git_commit": "commit",
         "device": "device"}  # fmt: skip
TOLD = {
    "ACC": f"{DEFINITIONS['acc']}, {COUNTS['class_il']}; in percent, as every number without a unit",
    "forgetting": DEFINITIONS["forgetting"],
    "BT": DEFINITIONS["backward_transfer"],
    "avg inc": DEFINITIONS["incremental_average"],
    "task-IL": f"ACC {COUNTS['task_il']}: the task is told",
    "dataset-IL": f"ACC {COUNTS['dataset_il']}",
    "leaky-IL": f"ACC {COUNTS['leaky_il']}",
    "±": "standard deviation over seeds (n − 1); nothing where there is one seed",
    "curve": "ACC after each task, mean over seeds, on a scale from 0 to 100",
    "exemplars": "images of old tasks that a method may keep, in all or of each class",
    "trained": "parameters that learned in some task",
    "seconds": "wall clock of a run, mean over seeds; frozen features that lay ready shorten it",
    "weights": "what the backbone starts from",
}
BESIDE = {
    "published": "as printed, under the definition of the column before it; its ± is the paper's own",
    "Δ": "mean here minus what is published",
}


class Printed(NamedTuple):
    """A row of a published table, its numbers by quantity."""

    name: str
    numbers: Mapping[str, Number]


def page(groups: Sequence[list[dict]], numbers: Numbers, *, title: str, published: Mapping[str, Printed] | None = None,
         notes: Sequence[str] = (), passed_over: Sequence[str] = ()) -> str:  # fmt: skip
    """`groups`: from collect.rows; `numbers`: of these runs and of those that they are compared with; `published`: by the
    digest of a configuration; `notes`: what a reader should know first."""
    scenarios: dict[str, list[list[dict]]] = {}
    for group in groups:
        scenarios.setdefault(group[0]["scenario"], []).append(group)
    files, left_out = pictures(groups, numbers.outputs)
    sections = [section(name, entries(own, numbers), published or {}, files) for name, own in sorted(scenarios.items())]
    places = {**{slug(name): name for name in sorted(scenarios)}, "definitions": "Definitions"}
    links = "".join(f'<li><a href="#{place}">{escape(name)}</a>' for place, name in places.items())
    told = facts(TOLD | _defined(published or {}))
    over = f"<h2>Passed over</h2>{bullets(passed_over)}" if passed_over else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>\n'
        f"<style>\n{Path(__file__).with_suffix('.css').read_text()}</style></head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1><p>{_counted(groups)}. Every name leads to the settings, commands and identities of "
        f"its runs.</p>{bullets(notes)}<nav><ul>{links}</ul></nav></header>\n{''.join(sections)}"
        f'<section id="definitions"><h2>Definitions</h2>{told}<p>{escape(left_out)}</p>{over}</section>\n'
        "</body></html>\n"
    )


def section(scenario: str, found: list[Entry], published: Mapping[str, Printed], files: Mapping[str, list[Path]]) -> str:
    runs = [entry.runs for entry in found]
    told = "".join(configuration(entry, files[entry.runs[0]["address"]]) for entry in found)
    return (
        f'<section id="{slug(scenario)}"><h2>{escape(scenario)}</h2><p>{_counted(runs)}. {alike(runs)} '
        f'<a href="#{slug(scenario)}-table">The table</a>, <a href="#{slug(scenario)}-runs">the runs</a>.</p>'
        f"{bullets(f'impossible row: {line}' for line in doubts(runs))}{figures(found)}"
        f'<h3 id="{slug(scenario)}-table">All configurations</h3>{table(found, published)}'
        f'<h3 id="{slug(scenario)}-runs">Their runs</h3>{told}</section>\n'
    )


def _defined(published: Mapping[str, Printed]) -> dict[str, str]:
    """What only a published table brings along."""
    keys = {key for row in published.values() for key in row.numbers}
    return {_head(key): meaning(key) for key in sorted(keys - {*OWN.values()})} | BESIDE if keys else {}


def _head(quantity: str) -> str:
    words = {"across.forward": "FT", "across.backward": "BT of data sets"}
    return words.get(quantity, quantity.removeprefix("across.").replace("_", " "))


def _counted(groups: Sequence[list[dict]]) -> str:
    return f"{plural(len(groups), 'configuration')}, {plural(sum(map(len, groups)), 'finished run')}"


def alike(groups: Sequence[list[dict]]) -> str:
    """What all runs have in common, and in how many kinds the rest comes."""
    same, apart = [], []
    for key, word in ALIKE.items():
        kinds = sorted({str(run["identity"].get(key, "unknown")) for group in groups for run in group})
        if len(kinds) == 1:
            same.append(f"{word} <code>{escape(kinds[0])}</code>")
        else:
            apart.append(plural(len(kinds), word))
    told = [f"{words}: {', '.join(what)}." for words, what in (("In common", same), ("Not in common", apart)) if what]
    return " ".join(told)


# --- figures ----------------------------------------------------------------------------------------------------------


def chosen(found: Sequence[Entry]) -> list[Entry]:
    """For figures, in the table's order: of each name the configuration with the most seeds, of these with the most tasks, of
    these the one with the shortest command; then the next ones up to FEW."""
    rank: Counter = Counter()
    ranked = []
    for entry in sorted(found, key=lambda e: (-len(e.runs), -len(e.means), len(typed(e.runs)), e.anchor)):
        if entry.percent is not None:
            ranked.append((rank[entry.name], entry.anchor))
            rank[entry.name] += 1
    many = len(found) if len(found) <= ALL else max(FEW, len(rank))
    kept = {anchor for _, anchor in sorted(ranked)[:many]}
    return [entry for entry in found if entry.anchor in kept]


def coloured(found: Sequence[Entry]) -> dict[str, str]:
    """Classes by anchor: evenly over the ranking, so that neighbours are told apart, and all where they are few."""
    few = min(len(found), svg.COLOURS)
    places = [round(n * (len(found) - 1) / max(1, few - 1)) for n in range(few)]
    return {found[place].anchor: f"c{n}" for n, place in enumerate(places)}


def figures(found: Sequence[Entry]) -> str:
    few = chosen(found)
    if not few:
        return ""
    colours, repeated = coloured(few), Counter(entry.name for entry in few)
    labels = {e.anchor: _label(e, repeated) for e in few}
    lines = [svg.Line(labels[e.anchor], e.anchor, colours.get(e.anchor, ""), e.means, e.spreads) for e in few]
    note = ""
    if len(few) < len(found):
        note += f" {len(few)} of {len(found)}: of each method and reading the configuration with the most seeds, and of these"
        note += " the one with the shortest command."
    if len(colours) < len(few):
        note += " Seven are coloured, evenly over the ranking; the others are grey and without a band."
    grids = "".join(
        f'<figure><a href="#{e.anchor}">{svg.heat(e.percent, f"accuracy matrix of {labels[e.anchor]}")}</a>'
        f"<figcaption>{escape(labels[e.anchor])} <b>{number(e.means[-1])}</b></figcaption></figure>" for e in few
    )  # fmt: skip
    scale = "".join(f'<i class="h{n}"></i>' for n in range(svg.LEVELS))
    return (
        f"<figure><figcaption><b>Accuracy after each task.</b> Percent, mean over seeds; bands: ± one standard deviation.{note}"
        f'</figcaption><div class="scroll" tabindex="0">{svg.curves(lines)}</div></figure>\n'
        f"<figure><figcaption><b>Forgetting.</b> Mean over seeds; lines: ± one standard deviation.</figcaption>"
        f"{bars(few, labels, colours)}</figure>\n"
        "<figure><figcaption><b>Accuracy matrices.</b> A row after each task, a column for each task tested; mean over seeds. "
        f'<span class="scale">0 {scale} 100</span></figcaption><div class="grids">{grids}</div></figure>\n'
    )


def _label(entry: Entry, repeated: Counter) -> str:
    """The name, where it says enough; the settings, where all have that name."""
    if repeated[entry.name] == 1 or not entry.settings:
        return entry.name
    return entry.settings if len(repeated) == 1 else f"{entry.name} {entry.settings}"


def bars(few: Sequence[Entry], labels: Mapping[str, str], colours: Mapping[str, str]) -> str:
    known = [(statistics.fmean(values), e) for e in few if (values := e.values("forgetting"))]
    if not known:
        return "<p>None has any: one task, or earlier tasks were not measured.</p>"
    low, high = min(0.0, *(mean for mean, _ in known)), max(0.0, *(mean for mean, _ in known))
    lines = []
    for mean, entry in sorted(known, key=lambda one: (one[0], one[1].anchor)):
        values = entry.values("forgetting")
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        lines.append(f'<li class="{colours.get(entry.anchor, "")}"><a href="#{entry.anchor}">{escape(labels[entry.anchor])}</a>'
                     f"{svg.bar(mean, spread, low, high)}{spelled(values)}")  # fmt: skip
    return f'<ol class="bars">{"".join(lines)}</ol>'


# --- the table --------------------------------------------------------------------------------------------------------


def table(found: Sequence[Entry], published: Mapping[str, Printed]) -> str:
    """A line each; after a number comes what was published under its definition, and by how much ours is higher."""
    columns = OWN | {name: key for name, key in OTHER.items() if 3 * sum(bool(e.values(key)) for e in found) > len(found)}
    mine = {entry.runs[0]["digest"] for entry in found}
    keys = dict.fromkeys(key for digest, row in published.items() if digest in mine for key in row.numbers)
    columns |= {_head(key): key for key in keys if key not in columns.values()}
    beside = '<th scope="col" class="pub">published<th scope="col">Δ'
    head = "".join(f'<th scope="col">{escape(name)}{beside * (key in keys)}' for name, key in columns.items())
    lines = "".join(f"{_line(entry, columns, keys, published.get(entry.runs[0]['digest']))}\n" for entry in found)
    one = " one" * all(len(entry.runs) == 1 for entry in found)
    return (
        f'<div class="scroll" tabindex="0"><table class="all{one}"><thead><tr><th scope="col">configuration'
        f'<th scope="col">curve{head}<th scope="col">seeds<th scope="col">exemplars<th scope="col">trained'
        f'<th scope="col">seconds<th scope="col">weights<tbody>\n{lines}</table></div>'
    )


def _line(entry: Entry, columns: Mapping[str, str], keys: Mapping[str, None], printed: Printed | None) -> str:
    first, cells = entry.runs[0], []
    for key in columns.values():
        values = entry.values(key)
        cells.append(f"<td>{spelled(values)}")
        if key in keys:
            cells.append(_beside(values, printed.numbers.get(key) if printed else None))
    under = small(entry.settings) if entry.settings else ""
    under += f'<small class="pub">{escape(printed.name)}</small>' if printed else ""
    weights = str(first["identity"].get("weights", "–")).removeprefix("shipped:").removesuffix(".safetensors")
    seconds = statistics.fmean(run["seconds"] for run in entry.runs)
    told = (len(entry.runs), _exemplars(first["config"]["method"]), count(first["trained_parameters"]), f"{seconds:.0f}")
    return (
        f'<tr><th scope="row"><a href="#{entry.anchor}">{escape(entry.name)}</a>{under}<td>{svg.spark(entry.means)}'
        f'{"".join(cells)}{"".join(f"<td>{escape(str(value))}" for value in told)}<td class="words">{escape(weights)}'
    )


def _beside(values: Sequence[float], told: Number | None) -> str:
    if told is None:
        return '<td class="pub"><td>'
    spread = "" if told.spread is None else f" ± {told.spread:.2f}"
    apart = f"{statistics.fmean(values) - told.value:+.1f}".replace("-", "−") if values else ""
    return f'<td class="pub"><span class="n">{told.value:.2f}<i>{spread}</i></span><td>{apart}'


def _exemplars(method: Mapping) -> str:
    if each := method.get("per_class"):
        return f"{each} a class"
    return f"{method['memory']:,}" if isinstance(method.get("memory"), int) else "–"
