"""Measures what the means of the classes would reach in place of a method's head. It changes nothing in the run."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cil.capabilities import HasFeatures, require
from cil.method import LabelledImages, Method, Scenario, Task
from cil.modifier import Modifier
from cil.modules.statistics.features import class_means, computed

BATCH = 64


class ClassMeans(Modifier):
    """After each task, takes the mean feature of each of its classes, and scores all tasks so far by the cosine to the means.

    A mean is never computed again. So what is forgotten is forgotten by the features, and nothing by a head.
    """

    remembered = ("means", "correct")
    tasks: Scenario  # set before training

    def __init__(self) -> None:
        self.means = torch.empty(0)  # of all classes so far, normalised
        self.correct: list[float] = []  # percent on each task so far

    def attach(self, method: Method) -> None:
        require(method, HasFeatures, "class_means")

    def suits(self, method: Method, scenario: Scenario) -> None:
        super().suits(method, scenario)
        self.tasks = scenario

    @torch.no_grad()
    def end_task(self, method: Method, task: Task) -> None:
        method.eval()
        new = F.normalize(class_means(*featured(method, task.train_plain), task.classes), dim=1)
        self.means = torch.cat([self.means.to(new), new])
        tests = (featured(method, self.tasks[index].test) for index in range(task.index + 1))
        self.correct = [100 * int((found @ self.means.T).argmax(1).eq(true).sum()) / len(true) for found, true in tests]

    def facts(self) -> dict:
        """Return the percentages of correct answers on each task so far, among all classes so far, and their mean."""
        return {"correct": self.correct, "acc": sum(self.correct) / len(self.correct)}


def featured(method: Method, images: LabelledImages) -> tuple[Tensor, Tensor]:
    """Return the normalised features and the labels of all images, computed in batches that the method takes in a test."""
    device, size = next(method.parameters()).device, method.test_batch or BATCH
    return computed(lambda some: F.normalize(method.features(some).float(), dim=1), images, device, size)
