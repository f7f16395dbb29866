"""Benchmark of training steps of several runs in one pass, against one run and against the runs one after another."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from cil.bench.harness import Kernels, figures, interleaved, name
from cil.engine.recipe import Step
from cil.engine.stack import Stack
from cil.engine.trainer import Trainer

RUNS = (1, 2, 5, 10)


def stacked(make: Callable[[int], Trainer], rounds: int) -> Iterator[dict]:
    """Measure a step of the second task for each number of runs; `make` builds the trainer of a seed.

    Kernels are counted without those that make the batches, whose number depends on the processor.
    """
    trainers = [make(seed) for seed in range(max(RUNS))]
    steps = [second_task(trainer) for trainer in trainers]
    alone = None
    for runs in RUNS:
        row = measured(trainers[:runs], steps[:runs], rounds)
        alone = alone or row["kernels"]
        yield {**row, "kernels_ratio": figures(row["kernels"] / alone), "rounds": rounds}


def measured(trainers: list[Trainer], steps: list[Step], rounds: int) -> dict:
    stack = Stack(trainers, steps, print)
    stack.learn(steps)  # the optimizers allocate their state here, untimed
    for trainer, step in zip(trainers, steps):
        trainer.batch = partial(returned, trainer.batch(step))  # type: ignore[assignment, method-assign]
    with Kernels() as kernels:
        stack.learn(steps)
    times = interleaved(lambda: stack.learn(steps), lambda: one_by_one(trainers, steps), rounds, trainers[0].machine.device)
    for trainer in trainers:
        del trainer.batch
    return {
        "row": "stack", "method": name(trainers[0].method), "runs": len(trainers),
        "batch": len(trainers) * len(steps[0].rows), "kernels": kernels.count,
        "against": "time of the same steps one after another", "ratio_cpu": figures(times.ratio_cpu),
        "ratio_wall": figures(times.ratio_wall),
    }  # fmt: skip


def returned(value: object, *_: object) -> object:
    return value


def second_task(trainer: Trainer) -> Step:
    """Return the first step of the second task, without training the first: modifiers have a first task to remember."""
    first, second = trainer.scenario[:2]
    for modifier in trainer.modifiers:
        modifier.attach(trainer.method)
    for task in (first, second):
        trainer.begin(task)
        trainer._modify("begin", task)
        if task is first:
            trainer._modify("end", task)
    phases: Any = trainer.method.phases(second)
    return next(iter(trainer._run_phase(next(iter(phases)), 0, None)))


def one_by_one(trainers: list[Trainer], steps: list[Step]) -> None:
    for trainer, step in zip(trainers, steps):
        trainer.learn(step)
