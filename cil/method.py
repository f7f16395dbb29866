"""The interface of a method: it says what to train on, which loss and which scores; the trainer owns the training loop."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from cil.common.errors import UserError
from cil.data.frozen_features import FrozenResults, Known
from cil.data.images import Batch, LabelledImages
from cil.data.sampling import shuffled
from cil.data.scenario import Scenario, Task

Losses = dict[str, Tensor]  # the trainer sums them and logs each by its key


@dataclass(frozen=True)
class Phase:
    """One stage of training: the data to train on and the parameters to train. All other parameters are frozen."""

    name: str
    task: Task
    data: LabelledImages  # or, to learn from sampled features, PseudoFeatures
    parameters: Sequence  # parameters, or parameter groups as torch's optimizers take them
    epochs: int | None = None  # None here and below: the value of the configuration
    batch_size: int | None = None
    schedule: Callable | None = None
    optimizer: Callable | None = None  # parameters → optimizer
    order: Callable = shuffled  # the order in which an epoch visits the images: see cil/data/sampling.py


class Method(nn.Module):
    """Base class of all methods. Its `state_dict()` is the checkpoint.

    Everything that must survive a restart is therefore a parameter, a buffer or part of `get_extra_state`. `begin_task` may
    only set shapes: a resumed run calls it for every task so far, and then loads the values from the checkpoint.
    """

    backbone: nn.Module
    test_batch: int | None = None  # required batch size at test time; None: predictions do not depend on the batch
    leaky_batch: int | None = None  # test batch size of released code that leaks the task id through it; reported as leaky_il
    leaky_chunk: int | None = None  # test images of one task that released code predicts jointly; reported as leaky_il

    divisible: bool = False  # whether the loss of a batch is the mean over its images, so that processes may split the batch

    votes: bool = False  # whether training decides something by a vote of the batch, so that a batch of one image is refused

    frozen: FrozenResults  # set by the trainer if the method has a frozen stage: its cached outputs

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        """Return the losses of one batch. Required if the method has phases."""
        raise UserError(f"{type(self).__name__} has a phase but no training_step; write one that returns the losses of a batch")

    def training_steps(self, batch: Batch | Known, phase: Phase) -> Iterator[Losses]:
        """Yield the losses of one batch. The optimizer takes a step after each; override this to take several steps a batch."""
        yield self.training_step(batch, phase) if isinstance(batch, Batch) else self.losses_from(batch, phase)

    def predict(self, images: Tensor) -> Tensor:
        """Return scores, (batch, classes seen); their argmax is the prediction. Required."""
        raise UserError(f"{type(self).__name__} has no predict; write one that returns scores, (images, classes seen)")

    def together(self, scores: Tensor) -> Tensor:
        """Return the scores that the released evaluation derives from those of one `leaky_chunk`. Required if that is set."""
        raise UserError(f"{type(self).__name__} has a leaky_chunk but no together; write one, or leave leaky_chunk out")

    def scored(self, task: Task) -> int:
        """Return how many classes `predict` scores after this task. Some released code also scores classes not yet seen."""
        return len(task.seen)

    def suits(self, scenario: Scenario) -> None:
        """Raise an error if this method cannot finish the scenario. Called once, before any training."""

    def begin_task(self, task: Task) -> None:
        """Prepare for a new task: grow the head, copy the teacher."""

    def phases(self, task: Task) -> Iterable[Phase]:
        """Return the phases of a task in order; an empty list means that nothing is trained.

        A generator is advanced when the previous phase has finished. It must yield the same phases again in a resumed run.
        """
        return [Phase("train", task, task.train, list(self.parameters()))]

    def answers(self, task: Task) -> bool:
        """Whether `predict` can be evaluated after this task. Joint training may train only at the end."""
        return True

    def enough(self, phase: Phase, epoch: int) -> bool:
        """Whether the phase ends after `epoch` epochs, before all of them. Asked before each epoch but the first."""
        return False

    def begin_epoch(self, phase: Phase, epoch: int) -> None:
        """Draw random numbers that are fixed for one epoch. A resumed epoch draws the same ones."""

    def end_phase(self, phase: Phase) -> None:
        """Prepare what the next phase needs. Called after each phase."""

    def end_task(self, task: Task) -> None:
        """Finish a task: store exemplars, compute statistics, merge weights."""

    @property
    def frozen_part(self) -> nn.Module:
        """The part of the backbone that is never trained, if there is a frozen stage. With bf16 it is cast only once."""
        return self.backbone

    def facts(self) -> dict:
        """Return plain numbers that are added to the record after each task."""
        return {}

    def doubts(self) -> list[str]:
        """Return warnings about the numbers of this task, as sentences without a full stop. Called after each task."""
        return []
