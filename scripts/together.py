"""A sweep in one process: runs that train alike learn as one batched problem, the others one after another.

python scripts/together.py method=awpf method.mmd_weight=0.1,0.5,0.9 seed=0,1,2
python scripts/together.py experiment=awpf_figure4/glyphs_10tasks

The runs, their folders and their numbers are those of python run.py -m with the same words.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from itertools import product
from pathlib import Path
from typing import TextIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hydra.core.override_parser.overrides_parser import OverridesParser

import run as front_door
from cil.report.table import one_line
from cil.rundir import RunDir, address, names
from cil.settings import checked
from cil.signals import EXIT_CODE, Stopped, StopRequest, stop_request
from scripts.compose import compose, guarded, swept

TOGETHER = 32  # runs at a time: their images' features are shared, their parameters and checkpoints are not


def main(words: list[str] | None = None) -> int:
    words = [word for word in (sys.argv[1:] if words is None else words) if word not in ("-m", "--multirun")]
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    return guarded(lambda: sweep(words))


def sweep(words: list[str]) -> int:
    groups, alone, done = defaultdict(list), [], 0
    for config in map(checked, points(words)):
        run = RunDir(Path(config["outputs"]) / address(config))
        if run.is_done:
            done += 1
        elif run.newest is not None:  # goes on from where it was
            alone.append(config)
        else:
            groups[alike(config)].append(config)
    if done:
        print(f"{done} done already")
    try:
        for configs in groups.values():
            for first in range(0, len(configs), TOGETHER):
                alone += several(configs[first : first + TOGETHER])
        for config in alone:
            front_door.execute(config, RunDir(Path(config["outputs"]) / address(config)))
    except Stopped as stopped:
        print(f"stopped by {stopped}; what is done is kept, and the same command goes on from there", file=sys.stderr)
        return EXIT_CODE
    return 0


def points(words: list[str]) -> Iterator[dict]:
    """The configurations that a sweep stands for, in its order."""
    fixed, axes = [], {}
    for word, override in zip(words, OverridesParser.create().parse_overrides(words), strict=True):
        if override.is_sweep_override():
            axes[override.key_or_group] = list(override.sweep_string_iterator())
        else:
            fixed.append(word)
            if override.key_or_group == "experiment":
                axes = {**swept(str(override.value())), **axes}
    named = {word.split("=", 1)[0].lstrip("+") for word in fixed}
    axes = {key: values for key, values in axes.items() if key not in named}
    for values in product(*axes.values()):
        yield compose(*fixed, *(f"{key}={value}" for key, value in zip(axes, values)))


def alike(config: dict) -> str:
    from cil.build import find
    from cil.together import kind

    return kind(config, getattr(find(config["method"]["_target_"], "method"), "apart", ()))


def several(configs: list[dict]) -> list[dict]:
    """Runs them together and returns none, or returns all where they cannot."""
    from cil.build import device_of, experiment
    from cil.finish import finish
    from cil.together import fit_together, may

    if len(configs) == 1:
        return configs
    with ExitStack() as stack:
        runs, trainers = [RunDir(Path(config["outputs"]) / address(config)) for config in configs], []
        stop = stack.enter_context(stop_request())
        for run, config in zip(runs, configs):
            stack.enter_context(run.open(config))
            whole = {**config, "machine": {**config["machine"], "checkpoint_seconds": float("inf")}}  # only at a task's end
            like, device = trainers[0] if trainers else None, device_of(config["machine"]["device"])
            with hushed():
                trainers.append(experiment(whole, run, device, StopRequest(), like))
            stack.callback(trainers[-1].log.close)
            if not may(trainers[0]):
                return configs
        print(f"{len(configs)} runs together: {names(configs[0])[1]} on {names(configs[0])[0]}")
        tasks = len(trainers[0].scenario)
        with hushed() as out:
            fit_together(trainers, stop, lambda done: print(f"task {done}/{tasks} learned", file=out, flush=True))
            for trainer, config in zip(trainers, configs):
                finish(trainer, config)
    for run in runs:
        print(f"{one_line(run.summary())}\n{run.path}")
    return []


@contextmanager
def hushed() -> Iterator[TextIO]:
    """Each run's own lines go to its run.log alone; yields where to tell of all."""
    out = sys.stdout
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield out


if __name__ == "__main__":
    sys.exit(main())
