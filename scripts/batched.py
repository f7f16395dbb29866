"""A sweep in one process: runs that train alike learn as one batched problem, the others one after another.

python scripts/batched.py method=awpf method.mmd_weight=0.1,0.5,0.9 seed=0,1,2
python scripts/batched.py experiment=awpf_figure4/glyphs_10tasks

The runs, their folders and, on a CPU, every bit of their numbers are those of python run.py -m with the same words.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import TextIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import run as front_door
from cil.common.signals import EXIT_CODE, Stopped, StopRequest, stop_request
from cil.common.tables import one_line
from cil.runs.run_folder import RunDir, address, names
from cil.runs.settings import checked
from scripts.compose import compose, guarded
from scripts.runs import lines


def main(words: list[str] | None = None) -> int:
    words = [word for word in (sys.argv[1:] if words is None else words) if word not in ("-m", "--multirun")]
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    return guarded(lambda: sweep(words))


def sweep(words: list[str]) -> int:
    front_door.FAILED.clear()
    groups, done = defaultdict(list), 0
    for config in {address(config): config for config in map(checked, points(words))}.values():
        if of(config).is_done:
            done += 1
        else:
            groups[alike(config)].append(config)
    if done:
        print(f"{done} done already")
    try:
        alone = []
        for configs in groups.values():
            while configs:
                one_by_one, configs = several(configs)
                alone += one_by_one
        for config in alone:
            with told():
                front_door.execute(config, of(config))
    except Stopped as stopped:
        print(f"stopped by {stopped}; what is done is kept, and the same command goes on from there", file=sys.stderr)
        return EXIT_CODE
    return 2 if front_door.FAILED else 0


def of(config: dict) -> RunDir:
    return RunDir(Path(config["outputs"]) / address(config))


@contextmanager
def told() -> Iterator[None]:
    """A run that cannot be made is said in one line, and the others go on."""
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if not front_door.tell(error):
            raise


def points(words: list[str]) -> Iterator[dict]:
    """The configurations that a sweep stands for, in its order."""
    return (compose(*line) for line in lines(words))


def alike(config: dict) -> str:
    from cil.engine.batched import kind
    from cil.engine.build import find

    return kind(config, getattr(find(config["method"]["_target_"], "method"), "after_training", ()))


def several(configs: list[dict]) -> tuple[list[dict], list[dict]]:
    """Runs as many of them together as there is room for; returns those that must run alone, and those that are left."""
    from cil.engine.batched import fit_together, may, room
    from cil.engine.build import device_of, experiment
    from cil.engine.summary import finish

    if len(configs) == 1:
        return configs, []
    device, alone, whole, left = device_of(configs[0]["machine"]["device"]), [], [], []
    with ExitStack() as stack:
        trainers, stop = [], stack.enter_context(stop_request())
        for config in configs:
            if trainers and len(trainers) == room(trainers[0]):
                left.append(config)
                continue
            with told(), hushed():
                run = stack.enter_context(of(config).open(config))
                if run.is_done:  # by another process, a moment ago
                    continue
                if run.newest is not None or (trainers and not may(trainers[0])):
                    alone.append(config)  # it goes on from where it was
                    continue
                only = {**config, "machine": {**config["machine"], "checkpoint_seconds": float("inf")}}  # at a task's end
                trainers.append(experiment(only, run, device, StopRequest(), trainers[0] if trainers else None))
                stack.callback(trainers[-1].log.close)
                whole.append(config)
        if len(trainers) == 1 or (trainers and not may(trainers[0])):
            trainers, whole, alone = [], [], whole + alone
        if trainers:
            print(f"{len(trainers)} runs together: {names(whole[0])[1]} on {names(whole[0])[0]}", flush=True)
            tasks = len(trainers[0].scenario)
            with hushed() as out:
                fit_together(trainers, stop, lambda done: print(f"task {done}/{tasks} learned", file=out, flush=True))
                for trainer, config in zip(trainers, whole):
                    finish(trainer, config)
        if stop:
            raise Stopped(stop.name)
    for config in whole:
        print(f"{one_line(of(config).summary())}\n{of(config).path}")
    return alone, left


@contextmanager
def hushed() -> Iterator[TextIO]:
    """Each run's own lines go to its run.log alone; yields where to tell of all."""
    out = sys.stdout
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield out


if __name__ == "__main__":
    sys.exit(main())
