"""Run a sweep in one process, training similar runs together.

python scripts/batched.py method=awpf method.mmd_weight=0.1,0.5,0.9 seed=0,1,2
python scripts/batched.py experiment=awpf_figure4/glyphs_10tasks

Runs that differ only in the seed or in settings used after training are
trained together as one batched problem, if the method supports it (rapf and
awpf). The other runs follow one after another. Settings, run folders and, on a
CPU, every bit of the results are those of python run.py -m.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import TextIO

from cil.commands import run as front_door
from cil.commands.compose import compose, guarded
from cil.commands.runs import lines
from cil.common.signals import EXIT_CODE, Stopped, StopRequest, stop_request
from cil.common.tables import one_line
from cil.runs.run_folder import RunDir, address, names
from cil.runs.settings import checked


def main(words: list[str] | None = None) -> int:
    words = [word for word in (sys.argv[1:] if words is None else words) if word not in ("-m", "--multirun")]
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    return guarded(lambda: sweep(words))


def sweep(words: list[str]) -> int:
    """Run every unfinished run of a sweep; returns the exit code."""
    front_door.FAILED.clear()
    groups, done = defaultdict(list), 0
    for config in {address(config): config for config in map(checked, points(words))}.values():
        if run_dir(config).is_done:
            done += 1
            with errors_printed():
                front_door.predicted(run_dir(config), config)
        else:
            groups[group_key(config)].append(config)
    if done:
        print(f"{done} done already")
    try:
        alone = []
        for configs in groups.values():
            while configs:
                one_by_one, configs = several(configs)
                alone += one_by_one
        for config in alone:
            with errors_printed():
                front_door.execute(config, run_dir(config))
    except Stopped as stopped:
        print(f"stopped by {stopped}; the same command resumes from the last checkpoint", file=sys.stderr)
        return EXIT_CODE
    return 2 if front_door.FAILED else 0


def run_dir(config: dict) -> RunDir:
    return RunDir(Path(config["outputs"]) / address(config))


@contextmanager
def errors_printed() -> Iterator[None]:
    """Print a user error of one run in one line, so that the other runs continue."""
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if not front_door.tell(error):
            raise


def points(words: list[str]) -> Iterator[dict]:
    """Yield the configurations of a sweep, in its order."""
    return (compose(*line) for line in lines(words))


def group_key(config: dict) -> str:
    """A key that is equal for configurations whose runs may be trained together."""
    from cil.engine.batched import kind
    from cil.engine.build import find

    return kind(config, getattr(find(config["method"]["_target_"], "method"), "after_training", ()))


def several(configs: list[dict]) -> tuple[list[dict], list[dict]]:
    """Train as many runs together as fit into memory; returns the configurations to run alone and those that are left."""
    from cil.engine.batched import fit_together, may, room
    from cil.engine.build import device_of, experiment
    from cil.engine.summary import finish
    from cil.engine.trainer import Trainer

    if len(configs) == 1:
        return configs, []
    device, alone, together, left = device_of(configs[0]["machine"]["device"]), [], [], []
    with ExitStack() as stack:
        trainers: list[Trainer] = []
        stop = stack.enter_context(stop_request())
        for config in configs:
            if trainers and len(trainers) == room(trainers[0]):
                left.append(config)
                continue
            with errors_printed(), silenced():
                run = stack.enter_context(run_dir(config).open(config))
                if run.is_done:  # another process has just finished it
                    continue
                if run.newest is not None or (trainers and not may(trainers[0])):
                    alone.append(config)  # it resumes from its checkpoint
                    continue
                only = {**config, "machine": {**config["machine"], "checkpoint_seconds": float("inf")}}  # only after a task
                trainers.append(experiment(only, run, device, StopRequest(), trainers[0] if trainers else None))
                stack.callback(trainers[-1].log.close)
                together.append(config)
        if len(trainers) == 1 or (trainers and not may(trainers[0])):
            trainers, together, alone = [], [], together + alone
        if trainers:
            print(f"{len(trainers)} runs together: {names(together[0])[1]} on {names(together[0])[0]}", flush=True)
            tasks = len(trainers[0].scenario)
            with silenced() as out:
                fit_together(trainers, stop, lambda done: print(f"task {done}/{tasks} learned", file=out, flush=True))
                for trainer, config in zip(trainers, together):
                    finish(trainer, config)
        if stop:
            raise Stopped(stop.name)
    for config in together:
        print(f"{one_line(run_dir(config).summary())}\n{run_dir(config).path}")
    return alone, left


@contextmanager
def silenced() -> Iterator[TextIO]:
    """Send the output of the runs to their run.log only; yields the real stdout for lines about all of them."""
    out = sys.stdout
    with open(os.devnull, "w") as null, redirect_stdout(null):
        yield out
