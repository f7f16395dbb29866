"""Measures the first task of 10-split CIFAR100 on noise images, and estimates the time of all ten tasks from it."""

import time
from collections.abc import Iterator
from itertools import pairwise

from cil.bench.harness import figures, opened, synchronise
from cil.gpu_check.part import Part, Row, attempted, judged

TASKS, EPOCHS = 10, 5  # DualPrompt's own paper trains 5 epochs, PGP's recipe 20
PGP_EPOCHS = 20
SIZES = {False: ("dataset.train_per_class=500", "dataset.test_per_class=100"),
         True: ("dataset.train_per_class=4", "dataset.test_per_class=2", "size=tiny", "train.batch_size=8")}  # fmt: skip
FORMS = {"auto": ("machine.precision=auto",), "auto, compiled": ("machine.precision=auto", "machine.compile=on"),
         "tf32": ("machine.precision=fp32",)}  # fmt: skip
FIXED = ("method=dualprompt", "scenario=cifar100_10tasks", "dataset=noise", "recipe=dualprompt/cifar100",
         "backbone.weights=null", "backbone.sha256=null", "machine=cuda", f"train.epochs={EPOCHS}")  # fmt: skip


def whole(part: Part, forms: tuple[str, ...]) -> Iterator[Row]:
    for form in forms:
        yield attempted(part, {"part": "run", "method": "dualprompt", "form": form}, timed, part, form)


def timed(part: Part, form: str) -> Row:
    """Seconds to start, to train one task, and to evaluate and save it; estimated minutes of a run of ten tasks."""
    config, images = part.configured(*FIXED, *SIZES[part.small], *FORMS[form]), 0
    marks = [time.perf_counter()]  # when the run is built, when training starts, when it ends, and when the task is saved
    with opened(config, part.folder / "whole" / form.replace(", ", "-"), part.device) as trainer:
        for step in trainer.steps():
            if step.where[0] > 0:
                break
            if not images:
                marks.append(time.perf_counter())
            trainer.learn(step)
            images += len(step.rows)
            if step.last:
                synchronise(part.device)
                marks.append(time.perf_counter())
        synchronise(part.device)
        marks.append(time.perf_counter())
        found, precision = judged(trainer), trainer.machine.precision
    start, train, test = (after - before for before, after in pairwise(marks))
    tested = TASKS * (TASKS + 1) / 2  # tasks evaluated: one after the first, ten after the last

    def minutes(epochs: int) -> float:
        return figures((start + TASKS * train * epochs / EPOCHS + tested * test) / 60)

    return found | {
        "precision": precision, "images": images, "start s": figures(start), "train s": figures(train),
        "test s": figures(test), "images a second": figures(images / train),
        f"minutes, {EPOCHS} epochs": minutes(EPOCHS), f"minutes, {PGP_EPOCHS} epochs": minutes(PGP_EPOCHS),
    }  # fmt: skip
