"""Runs that train alike, learned from as one batched problem: seeds, and settings that only matter after training.

Each run is its own trainer with its own folder; only the step is shared. Their parameters stand one behind another in one
tensor, whose losses, gradients and update are those of each alone, to the bit.
"""

import json
from collections.abc import Callable, Sequence

import torch
from torch import nn

from cil.capabilities import LearnsTogether
from cil.common.seeding import seed_everything
from cil.common.signals import Stopped, StopRequest
from cil.engine.recipe import Step
from cil.engine.trainer import Trainer

MOST, BYTES = 32, 2 << 30  # runs at a time, and what their statistics may take


def kind(config: dict, after_training: Sequence[str]) -> str:
    """The same for configurations whose runs may learn together."""
    method = {key: value for key, value in config["method"].items() if key not in after_training}
    return json.dumps({**config, "method": method, "seed": None}, sort_keys=True)


def may(trainer: Trainer) -> bool:
    """Whether a run can learn beside others: its method can, all images are encoded once, and nobody else touches a step."""
    once = all(task.train.view.variants for task in trainer.scenario[:1])
    known = trainer.method.backbone.identity["sha256"] is not None  # weights from a file, not drawn with the seed
    plain = not trainer.modifiers and trainer.recipe.clip is None
    return isinstance(trainer.method, LearnsTogether) and once and known and plain


def room(trainer: Trainer) -> int:
    """How many such runs fit into memory: each keeps the statistics of all classes, which its checkpoint has too."""
    each = 4 * len(trainer.scenario.class_names) * trainer.method.backbone.width**2
    return max(1, min(MOST, BYTES // each))


def fit_together(trainers: Sequence[Trainer], stop: StopRequest, tell: Callable[[int], None]) -> None:
    """All from the beginning; stopped or killed, each goes on alone from its last whole task. `tell`: of the tasks learned."""
    for trainer in trainers[1:]:
        trainer.encodes.hook.remove()  # they share the first one's backbone, which counts what it encodes
    stack = None
    for steps in zip(*(trainer.steps() for trainer in trainers), strict=True):
        if stop:
            raise Stopped(stop.name)
        stack = stack or Stack(trainers)
        stack.learn(steps)
        if steps[0].last:
            stack = stack.unstacked()
            tell(steps[0].where[0] + 1)
    for trainer in trainers:
        trainer.seconds /= len(trainers)  # each its share


class Stack:
    """The parameters of several methods as one, during a phase."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.trainers, self.method = trainers, trainers[0].method
        self.adapters = nn.Parameter(torch.stack([trainer.method.adapter.detach() for trainer in trainers]))
        self.optimizer = trainers[0].recipe.optimizer([self.adapters])
        self.rate = self.optimizer.param_groups[0]["lr"]
        seeds = list(dict.fromkeys(trainer.seed for trainer in trainers))
        self.leaders = [next(n for n, trainer in enumerate(trainers) if trainer.seed == seed) for seed in seeds]
        self.followed = torch.tensor([seeds.index(trainer.seed) for trainer in trainers], device=self.adapters.device)

    def learn(self, steps: Sequence[Step]) -> None:
        drawn = []  # runs of one seed draw the same
        for trainer, step in ((self.trainers[number], steps[number]) for number in self.leaders):
            batch = trainer.batch(step)
            seed_everything(trainer.seed, "step", *step.where)
            drawn.append(trainer.method.drawn(batch, step.phase))
        stacked = type(drawn[0])(*(torch.stack(parts)[self.followed] for parts in zip(*drawn)))
        self.optimizer.param_groups[0]["lr"] = steps[0].rate * self.rate
        losses = self.method.losses_of(self.adapters, stacked)
        self.optimizer.zero_grad()
        sum(losses.values()).sum().backward()
        self.optimizer.step()
        for number, step in enumerate(steps):
            step.losses = {name: loss.detach()[number] for name, loss in losses.items()}

    def unstacked(self) -> None:
        with torch.no_grad():
            for trainer, values in zip(self.trainers, self.adapters):
                trainer.method.adapter.copy_(values)
