"""Whether two finished runs are equal to the bit."""

import json

import torch

from cil.runs.run_folder import RunDir, read_matrices


def record(run: RunDir) -> list[dict]:
    """Return the events of a run without what a clock wrote."""
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in run.events.read_text().splitlines()]


def difference(one: RunDir, two: RunDir) -> str | None:
    """Say where accuracies, logged losses or weights of two finished runs differ; None if they do not."""
    for first, second in zip(record(one), record(two)):
        if first != second:
            return f"the record says {first} and {second}"
    if len(record(one)) != len(record(two)):
        return "one record is longer"
    left, right = read_matrices(one.path), read_matrices(two.path)
    for name in left.keys() | right.keys():
        same = name in left and name in right and (_filled(left[name].correct) == _filled(right[name].correct)).all()
        if not same:
            return f"the accuracies {name} differ"
    states = [run.load(file)["method"] for run in (one, two) if (file := run.newest)]
    for key in states[0].keys() | states[1].keys():
        if key not in states[0] or key not in states[1] or not _equal(states[0][key], states[1][key]):
            return f"{key} differs"
    return None


def _filled(correct) -> torch.Tensor:
    return torch.from_numpy(correct).nan_to_num(-1)


def _equal(one: object, two: object) -> bool:
    return torch.equal(one, two) if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor) else one == two
