"""Measures the first task of 10-split CIFAR100 on noise images, and estimates the time of all ten tasks from it."""

import time
from collections.abc import Iterator

from cil.bench.harness import figures, synchronise
from cil.engine.trainer import Trainer
from cil.gpu_check.part import Part, Row, fallback, opened, told

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
        row: Row = {"part": "run", "method": "dualprompt", "form": form}
        if part.over:
            yield row | {"verdict": "not reached"}
            continue
        try:
            config = part.configured(*FIXED, *SIZES[part.small], *FORMS[form])
            began = time.perf_counter()
            with opened(config, part.folder / "whole" / form.replace(", ", "-"), part.device) as trainer:
                yield row | {"verdict": "ok"} | timed(trainer, began) | fallback(trainer)
        except Exception as error:
            yield row | {"verdict": "failed", "why": told(error)}


def timed(trainer: Trainer, began: float) -> Row:
    """Seconds to start, to train one task, and to evaluate and save it; estimated minutes of a run of ten tasks."""
    device, images = trainer.machine.device, 0
    marks: list[float] = []  # when training starts, and when it ends
    for step in trainer.steps():
        if step.where[0] > 0:
            break
        if not marks:
            marks.append(time.perf_counter())
        trainer.learn(step)
        images += len(step.rows)
        if step.last:
            synchronise(device)
            marks.append(time.perf_counter())
    synchronise(device)
    end = time.perf_counter()
    start, train, test = marks[0] - began, marks[1] - marks[0], end - marks[1]
    tested = TASKS * (TASKS + 1) / 2  # tasks evaluated: one after the first, ten after the last

    def minutes(epochs: int) -> float:
        return figures((start + TASKS * train * epochs / EPOCHS + tested * test) / 60)

    return {
        "precision": trainer.machine.precision, "images": images, "start s": figures(start), "train s": figures(train),
        "test s": figures(test), "images a second": figures(images / train),
        f"minutes, {EPOCHS} epochs": minutes(EPOCHS), f"minutes, {PGP_EPOCHS} epochs": minutes(PGP_EPOCHS),
    }  # fmt: skip
