"""RanPAC: ridge regression on random features of a backbone tuned on the first task (McDonnell et al., NeurIPS 2023)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from cil.capabilities import TakesAdapters, require
from cil.common.ranges import Positive, Whole
from cil.method import Method, Task
from cil.modules.adapters.first_task import FirstTaskTuned
from cil.modules.adapters.parallel import AdapterSize
from cil.modules.heads.cosine import exact
from cil.modules.statistics.random_ridge import RandomRidge


class RanPAC(FirstTaskTuned, Method):
    """Solves the classifier from sums over all images so far. Apart from the shrinkage it does not depend on the task order."""

    def __init__(
        self, backbone: nn.Module, *, tune: bool, size: AdapterSize, features: Whole, shrinkage: Positive | None,
        chosen_on: Literal["all", "task"],
    ) -> None:  # fmt: skip
        """`features`: number of random features; 0: use the backbone's features. `shrinkage`: ridge parameter; null chooses the
        power of ten with the least squared error on 20 % of a task's images. `chosen_on`: fit for that choice on `all` images
        so far or only on those of the `task`, which may be too small for the classifier solved from all images."""
        if tune:
            require(backbone, TakesAdapters, "ranpac")
        super().__init__(backbone, size, tune=tune)
        self.shrinkage, self.chosen, self.used, self.chosen_on = shrinkage, shrinkage, shrinkage, chosen_on
        self.unstable = False
        self.ridge = RandomRidge(backbone.width, features)

    def begin_task(self, task: Task) -> None:
        super().begin_task(task)
        self.ridge.grow(len(task.seen))

    def end_task(self, task: Task) -> None:
        features, labels = self.of_task(task)
        order = torch.randperm(len(labels)).to(labels.device)  # mixes the classes, as the released code does
        with exact(features):
            self.chosen = self.shrinkage
            if self.chosen is None:
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
        return [f"there are about as many images as the {len(self.ridge.gram)} features, and a shrinkage of {self.used:g} is "
                "too small, so the classifier overfits; type method.chosen_on=all, or another method.features"]  # fmt: skip

    def facts(self) -> dict:
        """Reports both values if a larger shrinkage had to be used because the factorization failed with the chosen one."""
        return {"shrinkage": self.used} | ({} if self.used == self.chosen else {"chosen shrinkage": self.chosen})
