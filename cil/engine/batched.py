"""Trains several runs as one batched problem. The runs may differ in the seed and in settings used only after training.

Each run has its own trainer and folder; only the training step is shared. The parameters of all runs are stacked in one
tensor. Losses, gradients and updates are bit-identical to those of separate runs.
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

MOST, BYTES = 32, 2 << 30  # the most runs at a time, and the most memory for their statistics


def kind(config: dict, after_training: Sequence[str]) -> str:
    """A key that is equal for configurations whose runs may be trained together."""
    method = {key: value for key, value in config["method"].items() if key not in after_training}
    seed = config["seed"] if config["scenario"].get("order") == "seed" else None  # then the seed decides the classes of a task
    return json.dumps({**config, "method": method, "seed": seed}, sort_keys=True)


def may(trainer: Trainer) -> bool:
    """Whether a run can be trained with others: its method supports it, images are encoded once, nothing modifies a step."""
    encoded_once = all(task.train.view.variants for task in trainer.scenario[:1])
    fixed_weights = trainer.method.backbone.identity["sha256"] is not None  # from a file, not drawn with the seed
    plain_step = not trainer.modifiers and trainer.recipe.clip is None
    return isinstance(trainer.method, LearnsTogether) and encoded_once and fixed_weights and plain_step


def room(trainer: Trainer) -> int:
    """How many such runs fit into memory at once; each run keeps statistics of every class."""
    bytes_each = 4 * len(trainer.scenario.class_names) * trainer.method.backbone.width**2
    return max(1, min(MOST, BYTES // bytes_each))


def fit_together(trainers: Sequence[Trainer], stop: StopRequest, tell: Callable[[int], None]) -> None:
    """Train all runs from the beginning; after an interruption each resumes on its own from its last finished task.

    `tell` is called after each task with the number of tasks learned.
    """
    for trainer in trainers[1:]:
        trainer.encodes.hook.remove()  # the backbone is shared, so only the first trainer counts what it encodes
    stack = None
    for steps in zip(*(trainer.steps() for trainer in trainers), strict=True):
        if stop:
            raise Stopped(stop.name)
        stack = stack or Stack(trainers)
        stack.learn(steps)
        if steps[0].last:
            stack.unstacked()
            stack = None
            tell(steps[0].where[0] + 1)
    for trainer in trainers:
        trainer.seconds /= len(trainers)  # an equal share of the common time


class Stack:
    """The stacked adapters of several methods during a phase, of shape (runs, *adapter shape), and their optimizer."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.trainers, self.method = trainers, trainers[0].method
        self.adapters = nn.Parameter(torch.stack([trainer.method.adapter.detach() for trainer in trainers]))
        self.optimizer = trainers[0].recipe.optimizer([self.adapters])
        self.rate = self.optimizer.param_groups[0]["lr"]
        seeds = list(dict.fromkeys(trainer.seed for trainer in trainers))
        self.first_of_seed = [next(n for n, trainer in enumerate(trainers) if trainer.seed == seed) for seed in seeds]
        self.seed_of = torch.tensor([seeds.index(trainer.seed) for trainer in trainers], device=self.adapters.device)

    def learn(self, steps: Sequence[Step]) -> None:
        """Take one training step for all runs; `steps` has one step of each."""
        drawn = []  # one entry per seed, since runs of the same seed draw the same batch
        for trainer, step in ((self.trainers[number], steps[number]) for number in self.first_of_seed):
            batch = trainer.batch(step)
            seed_everything(trainer.seed, "step", *step.where)
            drawn.append(trainer.method.drawn(batch, step.phase))
        stacked = type(drawn[0])(*(torch.stack(parts)[self.seed_of] for parts in zip(*drawn)))
        self.optimizer.param_groups[0]["lr"] = steps[0].rate * self.rate
        losses = self.method.losses_of(self.adapters, stacked)
        self.optimizer.zero_grad()
        sum(losses.values()).sum().backward()
        self.optimizer.step()
        for number, step in enumerate(steps):
            step.losses = {name: loss.detach()[number] for name, loss in losses.items()}

    def unstacked(self) -> None:
        """Copy the trained adapters back into the methods."""
        with torch.no_grad():
            for trainer, values in zip(self.trainers, self.adapters):
                trainer.method.adapter.copy_(values)
