"""What every method keeps: it learns, scores the classes seen, trains what its phases name, and resumes to the same bits.

The project's tests make these checks on each of its methods, `cil test-method` on one of a plugin. A check that does not hold
raises `Broken`. The images are six drawn characters, so that a check takes seconds.
"""

import copy
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cil.common.signals import Stopped, StopRequest
from cil.data.datasets.glyphs import glyphs
from cil.data.images import Images
from cil.data.scenario import Scenario
from cil.data.transforms.views import ImageSpec, views
from cil.engine.build import device_of, experiment, make
from cil.engine.trainer import Trainer
from cil.method import Method
from cil.runs.run_folder import RunDir, read_matrices

JITTER = dict(rotation=0.1, scale=0.1, shear=0.1, shift=1.0, noise=0.02)
UNTRAINED = ("backbone.weights=null", "backbone.sha256=null", "machine=cpu", "log.live=false", "data.features=null")
FEW = ("train.epochs=2", "train.batch_size=16", "machine.checkpoint_seconds=0")
LONG, LONGER = ("train.epochs=12", "train.batch_size=36"), ("train.epochs=40", "train.batch_size=12")
STOPS = (1, 2, 3, 2, 2, 5)  # a stop at the n-th look of each process: inside and at the end of epochs, first to last task


class Broken(Exception):
    """A promise that a method breaks, as a sentence."""


def characters(root: Path) -> Images:
    """Return six characters, 18 training and 6 test images each."""
    made = glyphs(str(root), train_per_class=18, test_per_class=6, jitter=JITTER, seed=0)
    train, test = made.train_labels < 6, made.test_labels < 6
    assert isinstance(made.train, Tensor) and isinstance(made.test, Tensor)
    return replace(made, train=made.train[train], train_labels=made.train_labels[train], test=made.test[test],
                   test_labels=made.test_labels[test], class_names=made.class_names[:6])  # fmt: skip


def three_tasks(images: Images, image: ImageSpec) -> Scenario:
    """Return three tasks of two characters, as a backbone with this input sees them."""
    pair = views(image, train={"crop": "whole"}, test={"crop": "whole"})
    return Scenario(images, pair, name="small", tasks=3, first=None, order="numpy:1993")


class StopsAt(StopRequest):
    """A stop that arrives at the n-th time the loop looks."""

    def __init__(self, when: int) -> None:
        self.looks, self.when = 0, when

    def __bool__(self) -> bool:
        self.looks += 1
        if self.looks == self.when:
            self.name = "SIGTERM"
        return self.looks >= self.when


def in_pieces(run: Callable[[StopRequest | None], Trainer], stops: Sequence[int]) -> tuple[Trainer, int]:
    """Stop a run at the n-th look of one process after another; return the last trainer and the number of stops."""
    for stopped, when in enumerate(stops):
        with suppress(Stopped):
            return run(StopsAt(when)), stopped
    return run(None), len(stops)


class Seen(NamedTuple):
    """A parameter at the end of a phase."""

    phase: str
    parameter: str
    moved: bool
    named: bool  # by the phase, as one that it trains


@dataclass
class Contract:
    """The checks on one method. `compose` turns words of a command line into a configuration."""

    compose: Callable[..., dict]
    folder: Path  # for the runs of the checks
    images: Images
    words: tuple[str, ...]  # that choose the method; they make it small too
    learning: tuple[str, ...] = ()  # further words for the check that it learns
    said: list[str] = field(default_factory=list)  # notes for the user
    seen: list[Seen] = field(default_factory=list, init=False)  # in the straight run
    encoded: int = field(default=0, init=False)  # images, by the straight run

    @cached_property
    def few(self) -> dict:
        return self.compose(*UNTRAINED, *FEW, *self.words)

    def trainer(self, config: dict, name: str, stop: StopRequest | None = None, scenario: Callable = three_tasks) -> Trainer:
        run = RunDir(self.folder / name).open(config)
        made = lambda image: scenario(self.images, image)  # noqa: E731
        return experiment(config, run, device_of("cpu"), StopRequest() if stop is None else stop, scenario=made)

    def fitted(self, config: dict, name: str, stop: StopRequest | None = None) -> Trainer:
        trainer = self.trainer(config, name, stop)
        with trainer.run:
            trainer.fit()
        return trainer

    @cached_property
    def straight(self) -> Trainer:
        """A run that is never stopped; what its phases move is watched."""
        trainer = self.trainer(self.few, "straight")
        run_phase = trainer._run_phase

        def watch(phase, number, inside):
            before = copy.deepcopy(dict(trainer.method.named_parameters()))
            named = {id(p) for entry in phase.parameters for p in (entry["params"] if isinstance(entry, dict) else [entry])}
            yield from run_phase(phase, number, inside)
            for name, parameter in trainer.method.named_parameters():
                moved = name not in before or not torch.equal(parameter, before[name])
                self.seen.append(Seen(phase.name, name, moved, id(parameter) in named))

        trainer._run_phase = watch  # type: ignore[method-assign]
        with trainer.run:
            trainer.fit()
        self.encoded = trainer.encodes.total  # before the checks let it predict more
        return trainer

    def scores_the_classes_seen(self) -> None:
        """scores exactly the classes seen, with finite losses that have names"""
        trainer = self.straight
        images = trainer.scenario[2].test.batch(torch.arange(4)).images
        with torch.no_grad():
            found = trainer.method.predict(images)
        if found.shape != (4, 6):
            raise Broken(f"predict returns {tuple(found.shape)} for 4 images after 6 classes; return (batch, classes seen)")
        for event in record(trainer.run):
            for name, value in event.get("losses", {}).items():
                if not name or not math.isfinite(value):
                    raise Broken(f"the loss {name!r} is {value} in task {event.get('task')}")

    def moves_only_its_phase(self) -> None:
        """changes no parameter outside its phase"""
        learned = any("losses" in event for event in record(self.straight.run))
        for seen in self.seen:
            if seen.moved and not seen.named:
                raise Broken(f"{seen.parameter} moved in phase {seen.phase}, which does not name it")
        if learned and not any(seen.moved for seen in self.seen):
            raise Broken("no phase moved any parameter")

    def learns(self) -> None:
        """learns one task of six characters"""
        shipped = self.compose("machine=cpu", "log.live=false", "data.features=null", *self.words)["backbone"]
        scratch = shipped.get("weights") is None
        config = self.compose(*UNTRAINED, *(LONGER if scratch else LONG), *self.words, *self.learning)
        if not scratch:
            config["backbone"].update(weights=shipped["weights"], sha256=shipped["sha256"])

        def one(images: Images, image: ImageSpec) -> Scenario:
            pair = make(config["augment"], "augment", image)
            return Scenario(images, pair, name="small", tasks=1, first=None, order="natural")

        trainer = self.trainer(config, "learns", scenario=one)
        with trainer.run:
            trainer.fit()
        found, least = float(trainer.matrix.average()), 60.0  # chance is 17
        if scratch:
            shown = trainer.scenario[0].train_plain.batch(torch.arange(108))
            with torch.no_grad():
                found = 100 * float((trainer.method.predict(shown.images).argmax(1) == shown.labels).float().mean())
        on = "the images it was shown" if scratch else "test images"
        self.said.append(f"{found:.0f} % of {on}")
        if not found > least:
            raise Broken(f"{found:.0f} % of {on} are right (chance is 17 %, wanted are more than {least:.0f} %); if it needs "
                         "more training or a higher rate, add train.epochs=60 or optim.lr=0.1")  # fmt: skip

    def repeats(self) -> None:
        """comes to the same bits a second time"""
        again = self.fitted(self.few, "again")
        if found := difference(self.straight.run, again.run):
            raise Broken(f"two equal runs differ: {found}; draw random numbers by torch in the methods that the trainer calls")

    def resumes(self, *, encodes: bool = False) -> None:
        """resumes to the same bits, stopped again and again

        A process goes on from where the one before was stopped. Another run goes on from the checkpoint after the first task.
        `encodes`: also check that no image is encoded twice.
        """
        resumed, times = in_pieces(lambda stop: self.fitted(self.few, "stopped", stop), STOPS)
        if not times:
            raise Broken("no request to stop reached the loop of the trainer")
        self.same(resumed, f"stopped {times} times and resumed")
        if encodes and self.encoded != resumed.encodes.total:
            raise Broken(f"stopped {times} times and resumed, it encodes {resumed.encodes.total} images, not {self.encoded}")
        first = self.trainer(self.few, "first")
        first.scenario = first.scenario[:1]  # type: ignore[assignment]
        with first.run:
            first.fit()
        self.same(self.fitted(self.few, "first"), "gone on with after the first task")

    def same(self, resumed: Trainer, how: str) -> None:
        """Compare with the run that was never stopped."""
        if found := difference(self.straight.run, resumed.run):
            raise Broken(f"{how}, it ends differently: {found}; what survives a restart is a "
                         "parameter, a buffer, or in get_extra_state (of a modifier: in state_dict), and "
                         "begin_task only sets shapes")  # fmt: skip

    def predicts_from_its_frozen_stage(self) -> None:
        """predicts the same from its frozen stage"""
        trainer = self.straight
        if trainer.evaluation.frozen is None:
            if type(trainer.method).predict is Method.predict:
                raise Broken("it has neither predict nor a frozen stage")
            self.said.append("it has none")
            return
        images = trainer.scenario[1].test.batch(torch.arange(5)).images
        with torch.no_grad():
            direct = trainer.method.predict(images)
            staged = trainer.method.predict_from(trainer.method.frozen_stage(images), lambda: images)
        if not torch.allclose(direct, staged, rtol=1.3e-6, atol=1e-5):
            raise Broken("predict(images) and predict_from(frozen_stage(images)) differ by "
                         f"{float((direct - staged).abs().max()):.2g}")  # fmt: skip

    def runs_in_half_precision(self) -> None:
        """runs in bf16"""
        config = self.compose(*UNTRAINED, *FEW, *self.words, "machine.precision=bf16")
        if self.fitted(config, "half").matrix.learned != 3:
            raise Broken("not all tasks were learned")


def checks(contract: Contract) -> list[tuple[str, Callable[[], None]]]:
    """Return all checks with what they promise."""
    every = (contract.learns, contract.scores_the_classes_seen, contract.moves_only_its_phase, contract.repeats,
             contract.resumes, contract.predicts_from_its_frozen_stage, contract.runs_in_half_precision)  # fmt: skip
    return [((check.__doc__ or "").splitlines()[0], check) for check in every]


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
