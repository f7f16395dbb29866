"""BiC: corrects the bias towards new classes with two numbers per task (Wu et al., CVPR 2019)."""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.common.ranges import Part, Positive, Weight, Whole
from cil.data.memory import Kept
from cil.method import Batch, LabelledImages, Losses, Method, Phase, Scenario, Task
from cil.modules.heads.linear_host import LinearHost
from cil.modules.rehearsal.distillation import softened
from cil.modules.rehearsal.exemplars import IMAGES, Exemplars, Selection
from cil.modules.statistics.features import computed

STEPS = 100  # the limit for L-BFGS, which needs about twelve


class BiC(Kept, LinearHost, Method):
    """Trains on all images but a small validation set with equally many images per class. On that set it then fits a factor
    and a shift for the logits of the new classes. The corrected logits are used everywhere, also those of the teacher."""

    growing = ("pairs", "task_of")
    divisible = taught = True
    pairs: Tensor  # (tasks, 2): factor and shift
    task_of: Tensor  # (classes,)

    def __init__(
        self, backbone: nn.Module, *, temperature: Positive, share: Literal["classes", "tasks"], validation: Part,
        double_softmax: bool, factor_pull: Weight, shift_pull: Weight, memory: Whole, per_class: Whole | None,
        selection: Selection,
    ) -> None:  # fmt: skip
        """`share`: weight of the distillation loss, old over seen `classes`, or one over the number of `tasks` so far (mammoth;
        it falls from 1/2 on where it should grow).

        `validation`: share of an old class's exemplars in the validation set, at least one image. `double_softmax`: fit with
        a softmax of a softmax, as PyCIL does. `factor_pull`, `shift_pull`: weights of the penalties that pull the factor
        towards 1 and the shift towards 0. Without them the best factor is infinite if the validation set is classified
        without error. FACIL uses 0.1 for the shift.
        """
        super().__init__(backbone)
        self.temperature, self.share, self.validation = temperature, share, validation
        self.double_softmax, self.pull = double_softmax, (factor_pull, shift_pull)
        self.memory = Exemplars(memory, per_class, selection)
        self.register_buffer("pairs", torch.empty(0, 2))
        self.register_buffer("task_of", torch.empty(0, dtype=torch.long))
        self.register_buffer("draw", torch.zeros((), dtype=torch.long))  # seed that selects the validation set

    def suits(self, scenario: Scenario) -> None:
        self.memory.check(scenario)

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        self.pairs = torch.cat([self.pairs, self.pairs.new_tensor([[1.0, 0.0]])])
        self.task_of = torch.cat([self.task_of, self.task_of.new_full((len(task.classes),), task.index)])
        self.draw.copy_(torch.randint(2**62, ()))

    # --- first stage: the network -------------------------------------------------------------------------------------

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("train", task, self.parted(task)[0], self.everything())]

    def parted(self, task: Task) -> tuple[LabelledImages, LabelledImages]:
        """Returns the training and the validation images. The latter are equally many of each class, old or new; at least one
        image of each class stays in training."""
        both, old = self.memory.joined(task), len(self.memory.of(task).labels.unique())
        fewest = int(both.labels.unique(return_counts=True)[1].min())
        each = min(max(1, int(self.validation * len(self.memory.of(task)) / max(old, 1))), fewest - 1)
        if not old or not each:
            return both, both.take(torch.arange(0))
        order = torch.randperm(len(both), generator=torch.Generator().manual_seed(int(self.draw)))
        held_out = torch.cat([order[both.labels[order] == label][:each] for label in both.labels.unique()])
        trained_on = torch.ones(len(both), dtype=torch.bool).index_fill_(0, held_out, False).nonzero()[:, 0]
        return both.take(trained_on), both.take(held_out)

    def teachers_share(self, task: Task) -> float:
        first = task.rivals.start
        return (task.classes.start - first) / (task.classes.stop - first) if self.share == "classes" else 1 / (task.index + 1)

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        task = phase.task
        first, old = task.rivals.start, slice(task.rivals.start, task.classes.start)
        logits = self.predict(batch.images)
        loss = F.cross_entropy(logits[:, first:], batch.labels - first)
        if self.teacher is None or old.start == old.stop:
            return {"ce": loss}
        share = self.teachers_share(task)
        taught = corrected(self.teacher(batch.images), self.pairs, self.task_of[: task.classes.start])[:, old]
        return {"ce": (1 - share) * loss, "distil": share * softened(logits[:, old], taught, self.temperature)}

    # --- second stage: factor and shift -------------------------------------------------------------------------------

    @torch.no_grad()
    def end_phase(self, phase: Phase) -> None:
        """Fits the factor and shift to convergence. The network is fixed now, so its logits are computed once."""
        task, images = phase.task, self.parted(phase.task)[1]
        if not len(images):
            return
        first, plain = task.rivals.start, replace(images, view=task.train_plain.view)
        logits, labels = computed(self.predict, plain, self.pairs.device, IMAGES)
        new = slice(task.classes.start - first, task.classes.stop - first)
        self.pairs[task.index] = fitted(logits[:, first:], labels - first, new, twice=self.double_softmax, pull=self.pull)

    def end_task(self, task: Task) -> None:
        self.memory.choose(task, self.features)

    def facts(self) -> dict:
        factor, shift = self.pairs[-1].tolist()
        return {"factor": round(factor, 3), "shift": round(shift, 3)}

    def predict(self, images: Tensor) -> Tensor:
        return corrected(self.head(self.features(images)), self.pairs, self.task_of)


def corrected(logits: Tensor, pairs: Tensor, tasks: Tensor) -> Tensor:
    """Correct logits, (batch, classes). `pairs`: (tasks, 2), factor and shift; `tasks`: (classes,), the task of each class."""
    return logits * pairs[tasks, 0] + pairs[tasks, 1]


def fitted(
    logits: Tensor, labels: Tensor, new: slice, *, twice: bool = False, pull: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    """Return the factor and shift of the `new` classes, (2,), that minimise the cross-entropy, which is convex in both.

    `twice`: apply softmax twice, as PyCIL does. `pull`: L2 penalties (½ · weight · square) that pull the factor to 1 and the
    shift to 0. Without them there is no minimum if the images can be separated without errors.
    """
    logits = logits.detach().double()
    start, pulls = logits.new_tensor([1.0, 0.0]), logits.new_tensor(pull)
    pair = start.clone().requires_grad_(True)
    search = torch.optim.LBFGS([pair], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def loss() -> Tensor:
        search.zero_grad()
        moved = torch.cat([logits[:, : new.start], pair[0] * logits[:, new] + pair[1], logits[:, new.stop :]], 1)
        value = F.cross_entropy(moved.softmax(1) if twice else moved, labels) + (pulls * (pair - start).square()).sum() / 2
        value.backward()
        return value

    with torch.enable_grad():
        search.step(loss)
    return pair.detach().float()
