"""Every finished run as one flat row, for a data frame, CSV, JSON or LaTeX."""

from pathlib import Path
from typing import Any

from cil.report.collect import COLUMNS, INPUTS, collect
from cil.report.why import flatten

METRICS = {name.replace(" ", "_").replace("-", "_"): place for name, place in COLUMNS.items()}  # names of columns


def every_run(outputs: Path) -> list[dict[str, Any]]:
    """One row per finished run below a folder: names, metrics, digests and every setting of the configuration."""
    return [row(summary) for summary in collect(outputs)[0]]


def row(summary: dict[str, Any]) -> dict[str, Any]:
    keys = ("scenario", "method", "seed", "digest", "address", "trained_parameters", "image_encodes", "seconds")
    return {
        **{key: summary.get(key) for key in keys},
        **{name: summary[part][key] for name, (part, key) in METRICS.items()},
        **{key: summary["identity"].get(key) for key in (*INPUTS, "weights", "git_commit", "device")},
        **{key: value for key, value in flatten(summary["config"]) if key not in ("seed", "outputs")},
    }
