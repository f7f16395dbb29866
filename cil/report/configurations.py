"""Data of each configuration on the report page, and the HTML of its details: matrix, settings, runs, pictures."""

import base64
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from cil.common.tables import mean_and_spread, number, plural
from cil.metrics import COUNTS
from cil.report import classes, svg
from cil.report.collect import inputs, titled
from cil.report.numbers import Numbers

PICTURES = 4 << 20  # bytes; if those in DRAWN are larger together, the page leaves them out
DRAWN = ("accuracy.png", "matrix.png")  # the page draws the same numbers itself
LARGEST = 20  # tasks; larger matrices are drawn without numbers


class Entry(NamedTuple):
    """One configuration: its runs, its name, and its accuracies over seeds."""

    runs: list[dict]
    name: str
    settings: str
    anchor: str
    percent: np.ndarray | None  # mean accuracy matrix; None if no run has one
    means: list[float]  # ACC after each task
    spreads: list[float]
    numbers: Numbers

    def values(self, quantity: str) -> list[float]:
        """The value of a quantity (named as in cil.report.published) in each run; empty if one of the runs has none."""
        values = [self.numbers.of(run, quantity) for run in self.runs]
        return [] if None in values else [value for value in values if value is not None]


def entries(groups: Sequence[list[dict]], numbers: Numbers) -> list[Entry]:
    """The entries of one scenario, from groups of runs as `collect.rows` returns them."""
    found = []
    for group, (name, *settings) in zip(groups, titled(groups)[1]):
        known = [matrix for run in group if (matrix := numbers.matrix(run)) is not None]
        curves = np.array([m.curve() for m in known] or [[math.nan]])
        spread = curves.std(0, ddof=1) if len(known) > 1 else np.full(curves.shape[1], math.nan)
        percent = np.mean([m.percent for m in known], 0) if known else None
        own = (key[:6] for key in inputs(group[0]))
        anchor = slug("-".join((group[0]["scenario"], group[0]["method"], group[0]["digest"], *own)))
        found.append(Entry(group, name, "".join(settings), anchor, percent, curves.mean(0).tolist(), spread.tolist(), numbers))
    return found


def pictures(groups: Iterable[list[dict]], outputs: Path) -> tuple[dict[str, list[Path]], str]:
    """The pictures of the first seed of each configuration, by address, and a note on what was left out because of its size."""
    files = {group[0]["address"]: sorted((outputs / group[0]["address"] / "pictures").glob("*.png")) for group in groups}
    drawn = [file.stat().st_size for own in files.values() for file in own if file.name in DRAWN]
    note = "The page holds the pictures of the first seed of each configuration."
    if sum(drawn) <= PICTURES:
        return files, note
    kept = {address: [file for file in own if file.name not in DRAWN] for address, own in files.items()}
    left = f"{' and '.join(DRAWN)} are left out, {len(drawn)} files of {sum(drawn) / 2**20:.0f} MiB"
    return kept, f"{note} {left}: the page draws their numbers."


# --- in HTML ----------------------------------------------------------------------------------------------------------


def configuration(entry: Entry, files: Sequence[Path]) -> str:
    first = entry.runs[0]
    settings = {key: value for key, value in first["config"].items() if key not in ("seed", "outputs")}
    shown = "".join(map(picture, files))
    return (
        f'<details class="configuration"><summary><span>{escape(entry.name)}</span>{small(entry.settings)}'
        f'{spelled(entry.values("acc"))}<span class="seeds">{plural(len(entry.runs), "seed")}</span></summary>'
        f'<div class="inside" id="{entry.anchor}">{matrix(entry)}{"".join(map(run, entry.runs))}'
        f"{classes.details([entry.numbers.outputs / run['address'] for run in entry.runs])}"
        f"<details><summary>Settings, all but the seed; digest <code>{escape(first['digest'])}</code></summary>"
        f"<pre>{escape(yaml.dump(settings, Dumper=DUMPER, sort_keys=False, allow_unicode=True))}</pre></details>"
        + (f"<details><summary>Pictures of seed {escape(str(first['seed']))}</summary>{shown}</details>" if shown else "")
        + "</div></details>\n"
    )


DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the same text; libyaml's is faster


def run(summary: dict) -> str:
    """The details of one run: its command, and everything that its results depend on."""
    identity, numbers = dict(summary["identity"]), summary["class_il"]
    known = {
        "commit": identity.pop("git_commit", "unknown"),
        "address": summary["address"],
        **identity,
        **{f"ACC {COUNTS[part]}": number(summary[part]["acc"], 2) for part in COUNTS if part in summary},
        "image encodes": summary.get("image_encodes"),
        "peak memory, MiB": summary.get("peak_memory_mib"),
        "earlier processes": "; ".join(map(_words, summary.get("earlier_processes", []))) or None,
    }
    return (
        f'<details class="run"><summary>seed {escape(str(summary["seed"]))}: ACC {number(numbers["acc"], 2)}, forgetting '
        f"{number(numbers['forgetting'], 2)}, {summary['seconds']:.0f} s</summary>"
        f'<p class="command"><code>{escape(summary["command"])}</code></p>{facts(known)}</details>'
    )


def matrix(entry: Entry) -> str:
    """The accuracy matrix as a colored table with one row after each task; without numbers if there are many tasks."""
    if entry.percent is None:
        return "<p>Its curve and matrix are missing: it has no accuracy.csv that can be read.</p>"
    tasks = len(entry.percent)
    if tasks > LARGEST:
        return svg.heat(entry.percent, f"accuracy matrix of {entry.name}")
    head = "".join(f'<th scope="col">{task + 1}' for task in range(tasks))
    lines = "".join(
        f'<tr><th scope="row">{after + 1}{"".join(_cell(value) for value in row)}<td>{number(mean)}'
        for after, (row, mean) in enumerate(zip(entry.percent, entry.means)) if math.isfinite(mean)
    )  # fmt: skip
    caption = "Percent correct on each task (columns) after each task (rows), mean over seeds"
    return (
        f'<p class="told">{caption}</p><div class="scroll" tabindex="0"><table class="matrix" aria-label="{caption}">'
        f'<thead><tr><th scope="col">after{head}<th scope="col">ACC<tbody>{lines}</table></div>'
    )


def _cell(value: float) -> str:
    return f'<td class="h{svg.level(value)}">{value:.0f}' if math.isfinite(value) else "<td>"


def picture(file: Path) -> str:
    """A PNG embedded in the page; empty if the file is not a PNG."""
    data = file.read_bytes()
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
        return ""
    width, height = struct.unpack(">II", data[16:24])
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    name = escape(file.stem.replace("_", " "))
    return (
        f'<figure><img loading="lazy" decoding="async" width="{width}" height="{height}" alt="{name}" src="{source}">'
        f"<figcaption>{name}</figcaption></figure>"
    )


def facts(values: Mapping[str, object]) -> str:
    """A list of names and values; names without a value are left out."""
    known = ((escape(key.replace("_", " ")), escape(_words(value))) for key, value in values.items() if value not in (None, ""))
    return f'<dl class="facts">{"".join(f"<dt>{key}<dd>{value}" for key, value in known)}</dl>'


def spelled(values: Sequence[float]) -> str:
    """Mean ± standard deviation, marked up so that the numbers of a column are aligned."""
    mean, sign, spread = mean_and_spread(values).partition(" ± ")
    return f'<span class="n">{mean.replace("-", "−")}<i>{sign}{spread}</i></span>'


def small(settings: str) -> str:
    """Settings in small print; lines may break after '.', '_' and '='."""
    words = re.sub("([._=])", r"\1<wbr>", escape(settings))
    return f"<small>{words}</small>"


def bullets(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(text)}" for text in lines)
    return f"<ul>{items}</ul>" if items else ""


def slug(name: str) -> str:
    """A name with all characters replaced that an HTML id must not have."""
    return re.sub(r"[^\w-]+", "-", name)


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items())
    return str(value)
