"""Trains several runs on one frozen backbone in one pass: their images go through it together.

Each run keeps its own trainer, optimizer, modifiers, random numbers and folder. Only the forward and backward passes of a step
are shared: the learned parameters of all runs are stacked, and each run gets its slice of the gradient.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from cil.capabilities import HasFrozenStage, LearnsFromFrozen, LearnsTogether
from cil.common.seeding import seed_everything
from cil.engine.recipe import Step
from cil.engine.trainer import Trainer
from cil.method import Batch, Known, Method

# settings that each run of a stack has for itself
OWN = ("seed", "modifier", "optim", "schedule", "log", "save", "reading", "method", "train")
MOST, BYTES = 32, 2 << 30  # the most runs in a stack, and the most memory for their statistics


def kind(config: dict, may_differ: Sequence[str]) -> str:
    """Return a key that is equal for configurations whose runs may be trained together."""
    own = {key: value for key, value in config.items() if key not in OWN}
    method = {key: value for key, value in config["method"].items() if key not in may_differ}
    train = {key: value for key, value in config["train"].items() if key != "clip"}
    seed = config["seed"] if config["scenario"].get("order") == "seed" else None  # then the seed decides the classes of a task
    return json.dumps([own, method, train, seed], sort_keys=True)


def only_alone(trainer: Trainer) -> str | None:
    """Return why a run cannot be trained together with others, or None."""
    fixed = trainer.method.backbone.identity["sha256"] is not None
    if not isinstance(trainer.method, LearnsTogether):
        return f"{type(trainer.method).__name__} cannot be trained together with other runs"
    if trainer.recipe.accumulate > 1:
        return "train.accumulate splits its batches"
    if not fixed:
        return "its backbone has no weights from a file, so that they depend on the seed"
    return trainer.method.only_alone()


def room(trainer: Trainer, most: int | None) -> int:
    """Return how many such runs may be trained together: `most`, or those whose statistics of all classes fit into memory."""
    return most or max(1, min(MOST, BYTES // (4 * len(trainer.scenario.class_names) * trainer.method.backbone.width**2)))


def fit_together(
    trainers: Sequence[Trainer], say: Callable[[str], None], finish: Callable[[Trainer], None]
) -> dict[Trainer, Exception]:
    """Train all runs to their end, each from its newest checkpoint; `finish` is called with each trained run.

    Runs that are at the same step take it together; those ahead wait for the others. A run that fails is left out, and its
    error is returned.
    """
    failed: dict[Trainer, Exception] = {}
    going = {trainer: trainer.steps() for trainer in trainers}
    waiting: dict[Trainer, Step] = {}
    stack = None

    def advance(trainer: Trainer) -> None:
        for other in trainers:
            other.encodes.share = float(other is trainer)
        try:
            waiting[trainer] = next(going[trainer])
        except StopIteration:
            finish(trainer)
        except Exception as error:
            failed[trainer] = error

    for trainer in trainers:
        trainer.share = 1 / len(trainers)
        advance(trainer)
    while waiting:
        place = min(step.where for step in waiting.values())
        together = [trainer for trainer in trainers if trainer in waiting and waiting[trainer].where == place]
        steps = [waiting.pop(trainer) for trainer in together]
        if stack is None or not stack.fits(together, steps):
            stack = Stack(together, steps, say)
        stack.learn(steps)
        for trainer in together:
            advance(trainer)
    return failed


class Stack:
    """Several runs during a phase."""

    def __init__(self, trainers: Sequence[Trainer], steps: Sequence[Step], say: Callable[[str], None]) -> None:
        self.trainers, self.say, self.most = list(trainers), say, len(trainers)
        self.optimizers = [step.optimizer for step in steps]
        self.parameters = [[p for group in step.optimizer.param_groups for p in group["params"]] for step in steps]
        self.method = trainers[0].method
        names = {id(p): name for name, p in self.method.named_parameters()}
        self.names = [names[id(p)] for p in self.parameters[0]]
        self.fixed = self._fixed([trainer.method for trainer in trainers])
        values = {key: [getattr(trainer.method, key) for trainer in trainers] for key in self.method.may_differ}
        device = trainers[0].machine.device
        self.settings = {
            key: torch.tensor(own, dtype=torch.float32, device=device) for key, own in values.items()
            if len(set(own)) > 1 and all(isinstance(value, int | float) for value in own)
        }  # fmt: skip

    def fits(self, trainers: Sequence[Trainer], steps: Sequence[Step]) -> bool:
        """Whether this is the stack of these runs in the phase of these steps."""
        return self.trainers == list(trainers) and all(step.optimizer is own for step, own in zip(steps, self.optimizers))

    def learn(self, steps: Sequence[Step]) -> None:
        """Take one training step for all runs; `steps` has one step of each. If memory does not suffice, take it in parts."""
        if len(steps) == 1:
            self.trainers[0].encodes.share = 1.0
            self.trainers[0].learn(steps[0])
            return
        first = 0
        while first < len(steps):
            some = slice(first, min(first + self.most, len(steps)))
            try:
                self._learn(some, steps[some])
                first = some.stop
            except torch.OutOfMemoryError:
                if self.most == 1:
                    raise
                self.most = -(-self.most // 2)
                self.say(f"{len(steps)} runs do not fit into memory together; {self.most} at a time do")

    def _learn(self, some: slice, steps: Sequence[Step]) -> None:
        trainers, parameters = self.trainers[some], self.parameters[some]
        for trainer in trainers:
            trainer.encodes.share = 1 / len(trainers)
        phase, precision = steps[0].phase, trainers[0].precision
        inputs = [torch.stack(part) if part[0] is not None else None for part in zip(*self._inputs(trainers, steps))]
        columns = zip(self.names, zip(*parameters))
        learned = {name: torch.stack([p.detach() for p in own]).requires_grad_() for name, own in columns}
        values = learned | {name: each[some] for name, each in self.fixed.items()}
        settings = {key: each[some] for key, each in self.settings.items()}
        with precision():
            losses = self.method.losses_of([trainer.method for trainer in trainers], values, settings, tuple(inputs), phase)
        torch.stack(list(losses.values())).sum().backward()
        gradients = [learned[name].grad for name in self.names]
        for number, (trainer, step, own) in enumerate(zip(trainers, steps, parameters)):
            for parameter, gradient in zip(own, gradients):
                parameter.grad = None if gradient is None else gradient[number]
            step.losses = trainer.update(step, {name: loss[number] for name, loss in losses.items()})

    def _fixed(self, methods: Sequence[Method]) -> dict[str, Tensor]:
        """Return what this phase does not train but what differs between the runs, such as the prompts of earlier tasks."""
        known = set(self.names) | {f"backbone.{name}" for name, _ in named(methods[0].backbone)}
        columns = zip(*(named(method) for method in methods), strict=True)
        own = {column[0][0]: [value.detach() for _, value in column] for column in columns if column[0][0] not in known}
        return {name: torch.stack(each) for name, each in own.items() if not all(torch.equal(each[0], other) for other in each)}

    def _inputs(self, trainers: Sequence[Trainer], steps: Sequence[Step]) -> Iterator[tuple[Tensor | None, ...]]:
        """Yield the inputs of each run. Runs of one seed see the same images, which are loaded and encoded once."""
        first = {trainer.seed: (trainer, step) for trainer, step in reversed(list(zip(trainers, steps)))}
        batches: dict[int, Batch | Known] = {seed: trainer.batch(step) for seed, (trainer, step) in first.items()}
        if isinstance(self.method, HasFrozenStage) and all(isinstance(batch, Batch) for batch in batches.values()):
            frozen = self._frozen(first, batches)
            only = isinstance(self.method, LearnsFromFrozen)
            batches = {
                seed: Known(own, batch.labels, batch.step) if only else batch._replace(frozen=own)  # type: ignore[call-arg]
                for (seed, batch), own in zip(batches.items(), frozen)
            }
        for trainer, step in zip(trainers, steps):
            seed_everything(trainer.seed, "step", *step.where)
            yield trainer.method.inputs(batches[trainer.seed], step.phase)  # type: ignore[attr-defined]

    def _frozen(self, first: dict[int, tuple[Trainer, Step]], batches: dict) -> Sequence[Tensor]:
        """Return the outputs of the frozen stage for each batch: cached ones, or else those of one pass over all images."""
        cached = [trainer.known(step) for trainer, step in first.values()]
        if all(cached):
            return [known.frozen for known in cached if known]
        with torch.no_grad(), self.trainers[0].precision():
            found = self.method.frozen_stage(torch.cat([batch.images for batch in batches.values()]))
        return found.split([len(batch.labels) for batch in batches.values()])


def named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(module.named_parameters(), module.named_buffers())
