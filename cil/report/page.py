"""Writes finished runs as one self-contained HTML page: no scripts, no network; the same runs give the same bytes."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from cil.common.tables import number, plural
from cil.metrics import COUNTS, DEFINITIONS
from cil.report import svg
from cil.report.collect import COLUMNS, count, doubts, typed
from cil.report.configurations import Entry, bullets, configuration, entries, facts, pictures, slug, small, spelled
from cil.report.numbers import Numbers
from cil.report.published import Number, meaning

ALL, FEW = 12, 6  # figures show up to ALL configurations; if there are more, one per name, but at least FEW
OWN = {name: key if part == "class_il" else f"{part}.{key}" for name, (part, key) in COLUMNS.items()}
OTHER = {"dataset-IL": "dataset_il.acc", "leaky-IL": "leaky_il.acc"}  # shown if more than a third of the configurations have it
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # the browser loads nothing from the network
ALIKE = {"data_digest": "dataset", "split_digest": "split", "order_digest": "class order", "git_commit": "commit",
         "device": "device"}  # fmt: skip
TOLD = {
    "ACC": f"{DEFINITIONS['acc']}, {COUNTS['class_il']}; in percent, like every number without a unit",
    "forgetting": DEFINITIONS["forgetting"],
    "BT": DEFINITIONS["backward_transfer"],
    "avg inc": DEFINITIONS["incremental_average"],
    "task-IL": f"ACC {COUNTS['task_il']}: the task identity is given",
    "dataset-IL": f"ACC {COUNTS['dataset_il']}",
    "leaky-IL": f"ACC {COUNTS['leaky_il']}",
    "±": "standard deviation over seeds (n − 1); empty for one seed",
    "curve": "ACC after each task, mean over seeds, on a scale from 0 to 100",
    "exemplars": "images of old tasks that a method may keep, in total or per class",
    "trained": "number of parameters that were trained in at least one task",
    "seconds": "wall-clock time of a run, mean over seeds; shorter if cached features were found",
    "weights": "initial weights of the backbone",
}
BESIDE = {
    "published": "the published number, with the definition of the column before it and the paper's own ±",
    "Δ": "our mean minus the published number",
}


class Printed(NamedTuple):
    """A row of a published table: its name, and its numbers by quantity."""

    name: str
    numbers: Mapping[str, Number]


def page(groups: Sequence[list[dict]], numbers: Numbers, *, title: str, published: Mapping[str, Printed] | None = None,
         notes: Sequence[str] = (), passed_over: Sequence[str] = ()) -> str:  # fmt: skip
    """The whole page as HTML.

    `groups`: as `collect.rows` returns them; `numbers`: of these runs and of those they are compared with; `published`: digest
    of a configuration → its published row; `notes`: lines shown at the top; `passed_over`: lines on skipped folders.
    """
    scenarios: dict[str, list[list[dict]]] = {}
    for group in groups:
        scenarios.setdefault(group[0]["scenario"], []).append(group)
    files, left_out = pictures(groups, numbers.outputs)
    sections = [section(name, entries(own, numbers), published or {}, files) for name, own in sorted(scenarios.items())]
    places = {**{slug(name): name for name in sorted(scenarios)}, "definitions": "Definitions"}
    links = "".join(f'<li><a href="#{place}">{escape(name)}</a>' for place, name in places.items())
    definitions = facts({**TOLD, **_defined(published or {})})
    over = f"<h2>Passed over</h2>{bullets(passed_over)}" if passed_over else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>\n'
        f"<style>\n{Path(__file__).with_suffix('.css').read_text()}</style></head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1><p>{_counted(groups)}. Click a name to see the settings, commands and identities "
        f"of its runs.</p>{bullets(notes)}<nav><ul>{links}</ul></nav></header>\n{''.join(sections)}"
        f'<section id="definitions"><h2>Definitions</h2>{definitions}<p>{escape(left_out)}</p>{over}</section>\n'
        "</body></html>\n"
    )


def section(scenario: str, found: list[Entry], published: Mapping[str, Printed], files: Mapping[str, list[Path]]) -> str:
    runs = [entry.runs for entry in found]
    details = "".join(configuration(entry, files[entry.runs[0]["address"]]) for entry in found)
    return (
        f'<section id="{slug(scenario)}"><h2>{escape(scenario)}</h2><p>{_counted(runs)}. {alike(runs)} '
        f'<a href="#{slug(scenario)}-table">The table</a>, <a href="#{slug(scenario)}-runs">the runs</a>.</p>'
        f"{bullets(f'impossible row: {line}' for line in doubts(runs))}{figures(found)}"
        f'<h3 id="{slug(scenario)}-table">All configurations</h3>{table(found, published)}'
        f'<h3 id="{slug(scenario)}-runs">Their runs</h3>{details}</section>\n'
    )


def _defined(published: Mapping[str, Printed]) -> dict[str, str | None]:
    """Definitions of the quantities that only the published table has."""
    keys = {key for row in published.values() for key in row.numbers}
    return {**{_head(key): meaning(key) for key in sorted(keys - {*OWN.values()})}, **BESIDE} if keys else {}


def _head(quantity: str) -> str:
    words = {"across.forward": "FT", "across.backward": "BT of datasets"}
    return words.get(quantity, quantity.removeprefix("across.").replace("_", " "))


def _counted(groups: Sequence[list[dict]]) -> str:
    return f"{plural(len(groups), 'configuration')}, {plural(sum(map(len, groups)), 'finished run')}"


def alike(groups: Sequence[list[dict]]) -> str:
    """Which part of their identity all runs have in common, and how many different values the other parts have."""
    same, apart = [], []
    for key, word in ALIKE.items():
        kinds = sorted({str(run["identity"].get(key, "unknown")) for group in groups for run in group})
        if len(kinds) == 1:
            same.append(f"{word} <code>{escape(kinds[0])}</code>")
        else:
            apart.append(plural(len(kinds), word))
    sentences = [f"{words}: {', '.join(what)}." for words, what in (("In common", same), ("Not in common", apart)) if what]
    return " ".join(sentences)


# --- figures ----------------------------------------------------------------------------------------------------------


def chosen(found: Sequence[Entry]) -> list[Entry]:
    """The configurations shown in figures, in the order of the table.

    For each name, the one with the most seeds, then the most tasks, then the shortest command; then the next ones up to FEW.
    """
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
    """Color classes by anchor. If there are more configurations than colors, they are spread evenly over the ranking."""
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
        note += f" {len(few)} of {len(found)}: for each method and reading the configuration with the most seeds, and among"
        note += " these the one with the shortest command."
    if len(colours) < len(few):
        note += " Seven are colored, spread evenly over the ranking; the others are grey and have no band."
    grids = "".join(
        f'<figure><a href="#{e.anchor}">{svg.heat(e.percent, f"accuracy matrix of {labels[e.anchor]}")}</a>'
        f"<figcaption>{escape(labels[e.anchor])} <b>{number(e.means[-1])}</b></figcaption></figure>"
        for e in few if e.percent is not None
    )  # fmt: skip
    return (
        f"<figure><figcaption><b>Accuracy after each task.</b> Percent, mean over seeds; bands: ± one standard deviation.{note}"
        f'</figcaption><div class="scroll wide" tabindex="0">{svg.curves(lines)}</div>'
        f"{svg.curves(lines, narrow=True)}{svg.legend(lines)}</figure>\n"
        f"<figure><figcaption><b>Forgetting.</b> Mean over seeds; lines: ± one standard deviation.</figcaption>"
        f"{bars(few, labels, colours)}</figure>\n"
        "<figure><figcaption><b>Accuracy matrices.</b> A row after each task, a column for each task tested; mean over seeds. "
        f'{svg.scale()}</figcaption><div class="grids">{grids}</div></figure>\n'
    )


def _label(entry: Entry, repeated: Counter) -> str:
    """The label of a configuration: its name, with its settings if several share the name."""
    if repeated[entry.name] == 1 or not entry.settings:
        return entry.name
    return entry.settings if len(repeated) == 1 else f"{entry.name} {entry.settings}"


def bars(few: Sequence[Entry], labels: Mapping[str, str], colours: Mapping[str, str]) -> str:
    known = [(statistics.fmean(values), e) for e in few if (values := e.values("forgetting"))]
    if not known:
        return "<p>No forgetting was measured: there is one task, or earlier tasks were not tested.</p>"
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
    """One line per configuration; if a number is published, it follows ours, with the difference."""
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
    last = (len(entry.runs), _exemplars(first["config"]["method"]), count(first["trained_parameters"]), f"{seconds:.0f}")
    return (
        f'<tr><th scope="row"><a href="#{entry.anchor}">{escape(entry.name)}</a>{under}<td>{svg.spark(entry.means)}'
        f'{"".join(cells)}{"".join(f"<td>{escape(str(value))}" for value in last)}<td class="words">{escape(weights)}'
    )


def _beside(values: Sequence[float], printed: Number | None) -> str:
    if printed is None:
        return '<td class="pub"><td>'
    spread = "" if printed.spread is None else f" ± {printed.spread:.2f}"
    apart = f"{statistics.fmean(values) - printed.value:+.1f}".replace("-", "−") if values else ""
    return f'<td class="pub"><span class="n">{printed.value:.2f}<i>{spread}</i></span><td>{apart}'


def _exemplars(method: Mapping) -> str:
    if each := method.get("per_class"):
        return f"{each} per class"
    return f"{method['memory']:,}" if isinstance(method.get("memory"), int) else "–"
