"""Formats the results of the GPU check: tables for an 80-column terminal or in Markdown, and a one-line verdict."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cil.common.files import write_text
from cil.common.tables import fill, grid
from cil.gpu_check.part import Row
from cil.gpu_check.whole import EPOCHS, PGP_EPOCHS

FINE = ("ok", "no steps", "not repeatable", "not reached", "not compiled")
BLOCK = "gpu"
LEGENDS = {
    "right": "CPU, GPU: accuracy in percent after two tasks. Apart: the difference in correct answers, and the largest "
    "difference allowed: three, or three times the difference between one CPU thread and several. Twice: a second run on the "
    "GPU compared with the first. Resumed: a run that was killed and started again.",
    "speed": "img/s: images per second in a training step. Step, test: the time of a training step and of a test batch, "
    "divided by the time of a forward pass of the bare backbone on the same images in the same form. FLOPs: the same ratio in "
    "floating-point operations, for a step. GiB: peak GPU memory. Idle: the share of a step in which the GPU computes nothing.",
    "run": "DualPrompt on 5,000 images of noise per task. Start, train, test: seconds to build the run, to train the first "
    "task, and to evaluate it and write its checkpoint. Min: estimated minutes of a whole run of ten tasks.",
}


def tables(rows: Sequence[Row], *, markdown: bool) -> str:
    parts = {"right": right(rows), "speed": fast(rows), "run": ten(rows)}
    found = [
        f"{grid(head, lines, markdown=markdown)}\n\n{wrapped(LEGENDS[key], markdown)}"
        for key, (head, lines) in parts.items() if lines
    ]  # fmt: skip
    return "\n\n".join([*found, *(wrapped(line, markdown) for line in reasons(rows))])


def wrapped(text: str, markdown: bool) -> str:
    return text if markdown else textwrap.fill(text, 80)


def right(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The head and the lines of the table of accuracies and restarts, one line per method."""
    by_method: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["part"] in ("accuracy", "resume"):
            by_method.setdefault(row["method"], {})[row["part"]] = row
    lines = []
    for method, own in by_method.items():
        seen, again = own.get("accuracy", {}), own.get("resume", {})
        apart = f"{seen['apart']} of {seen['allowed']}" if "apart" in seen else seen.get("verdict", "–")
        lines.append([method, shown(seen.get("cpu")), shown(seen.get("gpu")), apart, seen.get("twice", "–"),
                      "equal" if again.get("verdict") == "ok" else again.get("verdict", "–")])  # fmt: skip
    return ["method", "CPU", "GPU", "apart", "twice", "resumed"], lines


def fast(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The head and the lines of the table of speed."""
    lines = []
    for row in (row for row in rows if row["part"] == "speed" and row["verdict"] != "not reached"):
        cells = [f"{row[key]:.2f}" if row.get(key) is not None else "–" for key in ("step", "flops", "test")]
        memory = f"{row['MiB'] / 1024:.1f}" if "MiB" in row else "–"
        idle = f"{100 * row['idle']:.0f} %" if row.get("idle") is not None else "–"
        rate = f"{row['images a second']:.0f}" if "images a second" in row else row["verdict"]
        lines.append([row["method"], str(row["batch"]), row["form"], rate, *cells, memory, shown(row.get("kernels")), idle])
    return ["method", "batch", "form", "img/s", "step", "FLOPs", "test", "GiB", "kernels", "idle"], lines


def ten(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The head and the lines of the table of whole runs of ten tasks."""
    keys = ("start s", "train s", "test s", "images a second", f"minutes, {EPOCHS} epochs", f"minutes, {PGP_EPOCHS} epochs")
    found = [row for row in rows if row["part"] == "run" and row["verdict"] != "not reached"]
    lines = [[str(row["form"]), *(shown(row.get(key)) for key in keys)] for row in found]
    return ["form", "start", "train", "test", "img/s", f"min, {EPOCHS} ep.", f"min, {PGP_EPOCHS} ep."], lines


def shown(value: object) -> str:
    return "–" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def reasons(rows: Sequence[Row]) -> list[str]:
    """One line for each failure, each nondeterministic method, and each part that ran out of time."""
    found = [f"{named(row)}: {row['why']}" for row in rows if "why" in row]
    for row in rows:
        if row.get("twice") == "not equal":
            found.append(f"{named(row)}: two runs differ; {', '.join(row['operators']) or 'torch names no operator'}")
    missed = Counter(str(row["part"]) for row in rows if row["verdict"] == "not reached")
    return found + [f"{part}: {count} not reached in the time; type --only {part}" for part, count in missed.items()]


def named(row: Row) -> str:
    return " ".join(str(row[key]) for key in ("part", "method", "batch", "form") if key in row)


def judgement(rows: Sequence[Row]) -> tuple[bool, str]:
    """Whether all checks passed, and a one-line summary."""
    bad = [row for row in rows if row["verdict"] not in FINE]
    ok = sum(row["verdict"] == "ok" for row in rows)
    if bad:
        listed = "; ".join(f"{named(row)} {row['verdict']}" for row in bad[:5])
        return False, f"{len(bad)} of {len(rows)} checks failed: {listed}"
    return True, f"{ok} of {len(rows)} checks passed, none failed"


def write(page: Path, found: dict) -> None:
    """Write the results between the markers of the page; create the page if it does not exist."""
    if not page.is_file():
        write_text(page, f"# The check of a GPU\n\n<!-- {BLOCK} -->\n<!-- /{BLOCK} -->\n")
    head = (f"{found['device']}, PyTorch {found['torch']}, commit {found['commit']}, {found['minutes']:.1f} minutes: "
            f"{found['judgement']}.")  # fmt: skip
    fill(page, BLOCK, f"{head}\n\n{tables(found['rows'], markdown=True)}")
