"""The contract of a method: it answers questions (which data? which loss? which score?); the trainer owns the loop."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from cil.data.frozen_features import FrozenResults, Known
from cil.data.images import Batch, LabelledImages
from cil.data.sampling import shuffled
from cil.data.scenario import Scenario, Task

Losses = dict[str, Tensor]  # the trainer sums them and logs each by its key


@dataclass(frozen=True)
class Phase:
    """One stretch of training: this data, these parameters. Everything else is frozen."""

    name: str
    task: Task
    data: LabelledImages
    parameters: Sequence  # parameters, or groups as torch's optimizers take them
    epochs: int | None = None  # None: the recipe's
    batch_size: int | None = None
    schedule: Callable | None = None
    optimizer: Callable | None = None  # parameters → optimizer
    order: Callable = shuffled  # in which an epoch visits the images: cil/data/sampling.py


class Method(nn.Module):
    """Everything that must survive a restart is a parameter, a buffer or `get_extra_state`: `state_dict()` is the checkpoint.

    `begin_task` decides shapes only, since a resumed run calls it for every task so far before the values are loaded.
    """

    backbone: nn.Module
    test_batch: int | None = None  # test images that must be scored together; None: their answers do not depend on it
    leaky_batch: int | None = None  # test images a batch where released code reads the task off the batch; counted beside
    leaky_chunk: int | None = None  # test images of one task where released code answers them together; counted beside

    divisible: bool = False  # whether a batch's losses are the means of its images', so that processes may share it

    votes: bool = False  # whether the images of a training batch decide something together, which one alone cannot

    frozen: FrozenResults  # given by the trainer where there is a frozen stage: of images, each computed once

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        """The losses of one batch. Required of a method that has phases."""
        raise TypeError(f"{type(self).__name__} has a phase but no training_step")

    def training_steps(self, batch: Batch | Known, phase: Phase) -> Iterator[Losses]:
        """The losses of a batch, one after another where several steps are taken with it: the optimizer moves between them."""
        yield self.training_step(batch, phase) if isinstance(batch, Batch) else self.losses_from(batch, phase)

    def predict(self, images: Tensor) -> Tensor:
        """(batch, classes seen): scores whose argmax is the answer. Required."""
        raise TypeError(f"{type(self).__name__} has no predict")

    def together(self, scores: Tensor) -> Tensor:
        """What a released evaluation makes of the scores of a `leaky_chunk`. Required where there is one."""
        raise TypeError(f"{type(self).__name__} has a leaky_chunk but no together")

    def scored(self, task: Task) -> int:
        """How many classes `predict` scores after this task; released code may let those compete that are yet to come."""
        return len(task.seen)

    def suits(self, scenario: Scenario) -> None:
        """Refuse what cannot be learned to the end. Asked once, before anything is trained."""

    def begin_task(self, task: Task) -> None:
        """Grow heads, take a teacher."""

    def phases(self, task: Task) -> Iterable[Phase]:
        """What to train, in order; none where nothing is trained. A generator is asked for a phase when the one before it is
        done, and must answer the same when a resumed run asks again."""
        return [Phase("train", task, task.train, list(self.parameters()))]

    def answers(self, task: Task) -> bool:
        """Whether `predict` means something after this task; an upper bound may train once, at the end."""
        return True

    def begin_epoch(self, phase: Phase, epoch: int) -> None:
        """Draw what holds for an epoch; a resumed one draws the same."""

    def end_phase(self, phase: Phase) -> None:
        """Between two phases of a task, for what the next one needs."""

    def end_task(self, task: Task) -> None:
        """Keep exemplars, compute statistics, merge weights."""

    @property
    def frozen_part(self) -> nn.Module:
        """What of the backbone no phase ever trains, where there is a frozen stage: with bf16 its weights are rounded once."""
        return self.backbone

    def facts(self) -> dict:
        """Plain numbers for the record after each task."""
        return {}

    def doubts(self) -> list[str]:
        """After each task, what should make a reader doubt its numbers; whole sentences without a full stop."""
        return []
