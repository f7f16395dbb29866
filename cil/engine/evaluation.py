"""Counts correct predictions in every way that is reported, in one pass over the test images of the tasks seen.

Also measures how far attention reaches (`locality`).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from cil.capabilities import HasMaps, KnowsImages
from cil.common.errors import UserError
from cil.common.transfer import sent
from cil.engine.processes import ALONE, Processes
from cil.method import FrozenResults, LabelledImages, Method, Scenario, Task
from cil.modules.growing.attention import nonlocality


class Evaluation:
    """Evaluates a method on test images. Outputs of a frozen stage are cached for all evaluations of the run."""

    def __init__(
        self, method: Method, device: torch.device, batch_size: int, frozen: FrozenResults | None, processes: Processes = ALONE,
        keep: bool = False,
    ) -> None:  # fmt: skip
        """`keep`: put the predictions of each evaluation into `kept`, as `cil.runs.predictions` stores them."""
        self.method, self.device, self.batch_size = method, device, method.test_batch or batch_size
        self.frozen = frozen
        self.keep = keep
        self.kept: dict[str, np.ndarray] = {}
        alone = method.test_batch or method.leaky_batch is not None or method.leaky_chunk
        self.shared = ALONE if alone else processes  # images that must be scored together are not split across processes

    def kinds(self, scenario: Scenario) -> list[str]:
        """The ways of counting: among all classes seen, among the classes of the image's task and, where they apply, among the
        classes of its dataset ("dataset_il") and as a released evaluation that leaks the task id does ("leaky_il")."""
        leaky = self.method.leaky_batch is not None or self.method.leaky_chunk is not None
        more = {"dataset_il": len(scenario.datasets) > 1, "leaky_il": leaky}
        return ["class_il", "task_il", *(name for name, wanted in more.items() if wanted)]

    @torch.inference_mode()
    def __call__(self, tasks: Iterable[Task]) -> dict[str, list[int]]:
        """Return, for each way of counting, the number of correct predictions on each task."""
        tasks = list(tasks)
        wanted = self.method.scored(tasks[-1])
        self.method.eval()
        counts, candidates, first = [], self._leaky(tasks), 0
        kept: list[tuple[Tensor, Tensor]] = []
        for task in tasks:
            right: dict[str, int | Tensor] = defaultdict(int, dict.fromkeys(("nan", *dict(self._among(task, wanted))), 0))
            found, answers = [], []
            for scores, labels in self._scores(self.shared.tests(task.test)):
                if not isinstance(scores, Tensor) or scores.shape != (len(labels), wanted):
                    shown = f"a tensor {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
                    raise UserError(f"{type(self.method).__name__}.predict returned {shown} for {len(labels)} images and "
                                    f"{wanted} classes; it must return scores, ({len(labels)}, {wanted})")  # fmt: skip
                right["nan"] += scores.isnan().any(1).sum()
                for name, classes in self._among(task, wanted):
                    best = scores[:, classes.start : classes.stop].argmax(1) + classes.start
                    right[name] += (best == labels).sum()
                if candidates is not None:
                    hidden = torch.arange(wanted)[None] >= candidates[first : first + len(labels), None]
                    right["leaky_il"] += (scores.masked_fill(sent(hidden, scores.device), -torch.inf).argmax(1) == labels).sum()
                first += len(labels)
                if self.method.leaky_chunk or self.keep:
                    found.append(scores)
                    answers.append(scores.argmax(1))
            if chunk := self.method.leaky_chunk:
                together = torch.cat([self.method.together(some) for some in torch.cat(found).split(chunk)])
                right["nan"] += together.isnan().any(1).sum()
                right["leaky_il"] = (together.argmax(1) == task.test.labels.to(together.device)).sum()
            counts.append(right)
            if self.keep:
                kept.append(self._gathered(found, answers, wanted, len(task.test)))
        correct = defaultdict(list)
        for task, right in zip(tasks, counts):  # not earlier, since reading a count waits for the GPU
            totals = self.shared.sums(right)
            if unknown := totals.pop("nan"):
                raise UserError(f"{type(self.method).__name__} gave NaN as scores of {unknown} of {len(task.test)} test images "
                                f"of task {task.index + 1}; look for a division by zero, or lower optim.lr")  # fmt: skip
            for name, count in totals.items():
                correct[name].append(count)
        self.kept = self._arrays(tasks, kept) if self.keep else {}
        return correct

    def _gathered(self, found: list[Tensor], answers: list[Tensor], wanted: int, images: int) -> tuple[Tensor, Tensor]:
        """The scores, (images, classes), and answers, (images,), of all processes for the test images of one task."""
        none = torch.empty(0, device=self.device)  # if there are fewer images than processes
        scores = torch.cat([none.reshape(0, wanted), *(some.float() for some in found)])
        own = torch.cat([none.long(), *answers])
        return self.shared.gathered(scores, images).cpu(), self.shared.gathered(own, images).cpu()

    @staticmethod
    def _arrays(tasks: Sequence[Task], kept: list[tuple[Tensor, Tensor]]) -> dict[str, np.ndarray]:
        """The predictions of all tasks and what they belong to, as `cil.runs.predictions` stores them."""
        scores, answers = (torch.cat(parts).numpy() for parts in zip(*kept))
        of_task = [np.full(len(task.test), task.index, np.int32) for task in tasks]
        labels, rows = (torch.cat([getattr(task.test, key) for task in tasks]).cpu().numpy() for key in ("labels", "rows"))
        small = {"answers": answers, "labels": labels, "tasks": np.concatenate(of_task), "rows": rows}
        names = np.array([name for task in tasks for name in task.names])
        return {"scores": scores, **{key: value.astype(np.int32) for key, value in small.items()}, "names": names}

    def _among(self, task: Task, wanted: int) -> Iterable[tuple[str, range]]:
        yield "class_il", range(wanted)
        yield "task_il", task.classes
        if len(task.dataset) < task.total:
            yield "dataset_il", task.dataset

    def _leaky(self, tasks: list[Task]) -> Tensor | None:
        """For "leaky_il", the number of candidate classes of each test image, (images,): all up to the last task in its batch.

        Test images are ordered by task, so nearly every batch holds one task only. Images of old tasks then have fewer
        candidate classes than in "class_il", which is how the task id leaks.
        """
        if (size := self.method.leaky_batch) is None:
            return None
        stops = torch.cat([torch.full((len(task.test),), task.classes.stop) for task in tasks])
        last = (torch.arange(len(stops)) // size + 1) * size - 1
        return stops[last.clamp_max(len(stops) - 1)]

    def _scores(self, test: LabelledImages) -> Iterable[tuple[Tensor, Tensor]]:
        """Yield the scores (batch, classes) and labels (batch,) of the test images, batch by batch."""
        if self.frozen is None and not isinstance(self.method, KnowsImages):
            for batch in test.batches(self.batch_size, self.device):
                yield self.method.predict(batch.images), batch.labels
            return
        results = self.frozen.of(test) if self.frozen else self.method.known(test)
        for start in range(0, len(test), self.batch_size):
            rows = torch.arange(start, min(start + self.batch_size, len(test)))

            def images(rows: Tensor = rows) -> Tensor:
                return test.batch(rows, self.device).images

            frozen = results[start : start + len(rows)]
            yield self.method.predict_from(frozen, images), sent(test.labels[rows], self.device)


@torch.inference_mode()
def locality(backbone: torch.nn.Module, images: LabelledImages, batch_size: int, device: torch.device) -> dict:
    """Return "nonlocality": for each block the mean attention distance in patches (LPA, ICME 2023, section 3).

    Empty if there are no attention maps.
    """
    backbone.eval()
    if not isinstance(backbone, HasMaps):
        return {}
    found = []
    for batch in images.batches(batch_size, device):
        found.append(torch.stack([nonlocality(maps.float(), backbone.side).mean(1) for maps in backbone.maps(batch.images)]))
    return {"nonlocality": [round(value, 4) for value in torch.cat(found, 1).mean(1).tolist()]}
