"""Class-incremental and task-incremental accuracies from one pass over the tests of the tasks seen."""

from collections.abc import Iterable

import torch
from torch import Tensor

from cil.capabilities import HasFrozenStage
from cil.data import LabelledImages
from cil.frozen import FrozenResults
from cil.method import Method
from cil.mistakes import Mistake
from cil.scenario import Task


class Evaluation:
    """Tests of one run; what a frozen stage gives for a test image is computed once and kept over all evaluations."""

    def __init__(self, method: Method, device: torch.device, batch_size: int) -> None:
        self.method, self.device, self.batch_size = method, device, method.test_batch or batch_size
        self.frozen = FrozenResults(method.frozen_stage, device) if isinstance(method, HasFrozenStage) else None

    @torch.inference_mode()
    def __call__(self, tasks: Iterable[Task]) -> tuple[list[int], list[int]]:
        """Correct answers on each task: among all classes seen, and among the task's own."""
        tasks = list(tasks)
        wanted = self.method.scored(tasks[-1])
        self.method.eval()
        among_all, among_own = [], []
        for task in tasks:
            right = torch.zeros(2, dtype=torch.long, device=self.device)
            own = slice(task.classes.start, task.classes.stop)
            for scores, labels in self._scores(task.test):
                if scores.shape[1] != wanted:
                    raise Mistake(f"{type(self.method).__name__}.predict gave {scores.shape[1]} scores an image; it must "
                                  f"score exactly {wanted} classes")  # fmt: skip
                right[0] += (scores.argmax(1) == labels).sum()
                right[1] += (scores[:, own].argmax(1) + own.start == labels).sum()
            among_all.append(int(right[0]))
            among_own.append(int(right[1]))
        return among_all, among_own

    def _scores(self, test: LabelledImages) -> Iterable[tuple[Tensor, Tensor]]:
        if self.frozen is None:
            for batch in test.batches(self.batch_size, self.device):
                yield self.method.predict(batch.images), batch.labels
            return
        results = self.frozen.of(test)
        for start in range(0, len(test), self.batch_size):
            rows = torch.arange(start, min(start + self.batch_size, len(test)))

            def images(rows: Tensor = rows) -> Tensor:
                return test.batch(rows, self.device).images

            frozen = results[start : start + len(rows)]
            yield self.method.predict_from(frozen, images), test.labels[rows].to(self.device)
