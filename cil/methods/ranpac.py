"""RanPAC: a ridge regression on random features of a backbone tuned on the first task (McDonnell et al., NeurIPS 2023)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from cil.capabilities import TakesAdapters, require
from cil.common.ranges import Count, Fraction, Positive, Rate, Whole
from cil.data.scenario import Task
from cil.method import Method, Phase
from cil.modules.adapters.first_task import FirstTaskTuned
from cil.modules.heads.cosine import exact
from cil.modules.statistics.random_ridge import RandomRidge


class RanPAC(FirstTaskTuned, Method):
    """Sums over all images met decide the classifier, whatever the order of the tasks, but for the shrinkage."""

    def __init__(
        self, backbone: nn.Module, *, tune: bool, bottleneck: Count, scale: Rate, dropout: Fraction, features: Whole,
        shrinkage: Positive | None, chosen_on: Literal["all", "task"],
    ) -> None:  # fmt: skip
        """`features` random ones, 0: those of the backbone as they are; `shrinkage`: null takes the power of ten with which
        80 % of a task's images explain the others best, in squares. `chosen_on`: together with all images met before (all), or
        alone (task), which the classifier that is then solved from all images may not bear."""
        if tune:
            require(backbone, TakesAdapters, "ranpac")
        super().__init__(backbone, tune=tune, bottleneck=bottleneck, scale=scale, dropout=dropout)
        self.divisible = not (tune and dropout)
        self.shrinkage, self.chosen, self.used, self.chosen_on = shrinkage, shrinkage, shrinkage, chosen_on
        self.unstable = False
        self.ridge = RandomRidge(backbone.width, features)

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        self.ridge.grow(len(task.seen))

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("tune", task, task.train, self.learning())] if self.head else []

    def end_task(self, task: Task) -> None:
        features = self.frozen.of(task.train_plain)
        labels = task.train_plain.labels.to(features.device)
        order = torch.randperm(len(labels)).to(labels.device)  # not class by class, as the released code shuffles
        with exact(features):
            if self.shrinkage is None:
                self.chosen = self.ridge.best(features[order], labels[order], alone=self.chosen_on == "task")
            self.ridge.see(features, labels)
            self.used = self.ridge.solve(self.chosen)
        self.unstable = self.ridge.near_its_peak(self.used)

    def frozen_stage(self, images: Tensor) -> Tensor:
        return self.adapted(images).float()

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        with exact(frozen):
            return self.ridge(frozen)

    def doubts(self) -> list[str]:
        if not self.unstable:
            return []
        return [f"about as many images as the {len(self.ridge.gram)} features, and a shrinkage of {self.used:g}: such a "
                "classifier follows the noise; type method.chosen_on=all, or another method.features"]  # fmt: skip

    def facts(self) -> dict:
        """`used` is more than `chosen` where the sums have no factor with it."""
        return {"shrinkage": self.used} | ({} if self.used == self.chosen else {"chosen shrinkage": self.chosen})
