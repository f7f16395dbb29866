"""Measures what the means of the classes would reach in place of a method's head. It changes nothing in the run."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cil.capabilities import HasFeatures, require
from cil.data.images import LabelledImages
from cil.data.scenario import Scenario, Task
from cil.method import Method
from cil.modifier import Modifier

BATCH = 64


class ClassMeans(Modifier):
    """After each task, takes the mean feature of each of its classes, and scores all tasks so far by the cosine to the means.

    A mean is never computed again. So what is forgotten is forgotten by the features, and nothing by a head.
    """

    def __init__(self) -> None:
        self.means: list[Tensor] = []  # of all classes so far, normalised
        self.correct: list[float] = []  # percent on each task so far
        self.tasks: Scenario | None = None

    def attach(self, method: Method) -> None:
        require(method, HasFeatures, "class_means")

    def suits(self, method: Method, scenario: Scenario) -> None:
        super().suits(method, scenario)
        self.tasks = scenario

    @torch.no_grad()
    def end_task(self, method: Method, task: Task) -> None:
        assert self.tasks is not None  # set before training
        device = next(method.parameters()).device
        method.eval()
        own = list(featured(method, task.train_plain, device))
        features, labels = torch.cat([pair[0] for pair in own]), torch.cat([pair[1] for pair in own])
        self.means += [F.normalize(features[labels == label].mean(0), dim=0) for label in task.classes]
        means, self.correct = torch.stack(self.means).to(device), []
        for index in range(task.index + 1):
            tests = self.tasks[index].test
            right = sum((found @ means.T).argmax(1).eq(true).sum() for found, true in featured(method, tests, device))
            self.correct.append(100 * float(right) / len(tests))

    def state_dict(self) -> dict:
        return {"means": self.means, "correct": self.correct}

    def load_state_dict(self, state: dict) -> None:
        self.means, self.correct = state["means"], state["correct"]

    def facts(self) -> dict:
        """Return the percentages of correct answers on each task so far, among all classes so far, and their mean."""
        return {"correct": self.correct, "acc": sum(self.correct) / len(self.correct)}


def featured(method: Method, images: LabelledImages, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the normalised features and the labels of all images, in batches that the method takes in a test."""
    for batch in images.batches(method.test_batch or BATCH, device):
        yield F.normalize(method.features(batch.images).float(), dim=1), batch.labels  # type: ignore[attr-defined]
