"""The launcher hydra/launcher=stacked: trains the runs of a sweep that share a frozen backbone together, in one process."""

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TextIO

from omegaconf import DictConfig

from cil.common.signals import EXIT_CODE, Stopped, StopRequest, stop_request
from cil.launch import run as front_door
from cil.launch.compose import plain
from cil.runs.precision import settled
from cil.runs.run_folder import RunDir, address, names, run_of
from cil.runs.settings import checked

if TYPE_CHECKING:
    from cil.engine.trainer import Trainer


class Job(NamedTuple):
    """One run of a sweep."""

    words: list[str]  # its settings
    config: dict

    @property
    def run(self) -> RunDir:
        return run_of(self.config)


def train_together(sweep: Sequence[Sequence[str]], compose: Callable[[list[str]], DictConfig]) -> None:
    """Train those runs of a sweep that can be trained together; each is given by its settings, from which `compose` makes the
    configuration."""
    groups: dict[str, dict[str, Job]] = defaultdict(dict)
    for words in map(list, sweep):
        with left_to_hydra():
            job = Job(words, checked(plain(compose(words))))
            if job.config.get("debug"):
                job.run.discard()
                front_door.TRIED.add(job.run.path)
            if not job.run.is_done:
                groups[group_of(job.config)][address(job.config)] = job
    try:
        for group in groups.values():
            left = list(group.values())
            while len(left) > 1:
                left = train(left)
    except Stopped as stopped:
        print(f"stopped by {stopped}; the same command resumes from the last checkpoint", file=sys.stderr)
        sys.exit(EXIT_CODE)


def group_of(config: dict) -> str:
    """A key that is equal for configurations whose runs may be trained together."""
    from cil.engine.build import find
    from cil.engine.stack import kind

    return kind(config, getattr(find(config["method"]["_target_"], "method"), "may_differ", ()))


def train(jobs: list[Job]) -> list[Job]:
    """Train the first of these runs together, as many as fit into memory; returns those that are left."""
    from cil.engine.stack import fit_together, only_alone, room

    method, scenario = names(jobs[0].config)[::-1]
    trainers: dict[Trainer, Job] = {}
    with stop_request() as stop, ExitStack() as stack:
        most, left = jobs[0].config["machine"].get("stack"), list(jobs)
        while left and (not trainers or len(trainers) < room(next(iter(trainers)), most)):
            job, first = left.pop(0), next(iter(trainers), None)
            if trainer := opened(job, stop, first, stack):
                if why := only_alone(trainer):
                    print(f"{len(jobs)} runs of {method} on {scenario} are trained one by one: {why}", flush=True)
                    trainer.run.discard() if trainer.run.newest is None else None
                    return []
                trainers[trainer] = job
        if len(trainers) > 1:
            print(f"{len(trainers)} runs of {method} on {scenario} are trained together", flush=True)
            with silenced() as out:
                failed = fit_together(list(trainers), lambda line: print(line, file=out, flush=True), partial(ended, trainers))
            for error in failed.values():  # other errors: Hydra's launcher meets them again and reports them
                if isinstance(error, Stopped):
                    raise error
        if stop:
            raise Stopped(stop.name)  # a signal came while the runs were finishing
    return left


def opened(job: Job, stop: StopRequest, like: "Trainer | None", stack: ExitStack) -> "Trainer | None":
    """Return a trainer of a run, whose folder stays locked until `stack` ends; None if it is done or cannot start."""
    from cil.engine.build import device_of, experiment

    with left_to_hydra(), silenced(), ExitStack() as own:
        run = own.enter_context(job.run.open(job.config))
        if not run.is_done:  # another process may just have finished it
            trainer = experiment(settled(job.config), run, device_of(job.config["machine"]["device"]), stop, like)
            own.callback(trainer.log.close)
            stack.push(own.pop_all())
            return trainer
    return None


def ended(jobs: "dict[Trainer, Job]", trainer: "Trainer") -> None:
    """Write the results of a run under its own command."""
    from cil.engine.summary import finish

    typed, sys.argv = sys.argv, [sys.argv[0], *jobs[trainer].words]
    try:
        finish(trainer, jobs[trainer].config)
    finally:
        sys.argv = typed


@contextmanager
def left_to_hydra() -> Iterator[None]:
    """Pass over an error of one run: Hydra's launcher meets it again and reports it."""
    try:
        yield
    except Stopped:
        raise
    except Exception:
        pass


@contextmanager
def silenced() -> Iterator[TextIO]:
    """Send the output of the runs to their run.log only; yields the real stdout for lines about all of them."""
    out = sys.stdout
    with open(os.devnull, "w") as null, redirect_stdout(null):
        yield out
