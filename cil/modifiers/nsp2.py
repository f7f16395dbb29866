"""NSP²: projects the updates of deep prompts into the null space of old inputs (Lu et al., NeurIPS 2024)."""

from typing import Literal

import torch
from torch import Tensor

from cil.capabilities import ProjectionSite
from cil.common.errors import UserError
from cil.common.ranges import Count, Share, Weight
from cil.method import Method, Phase, Task
from cil.modules.projection import Projection, learns
from cil.modules.statistics.subspace import before_corner, gram, projector

FEWEST = 3  # prompts: a corner has a neighbor on each side


class NSP2(Projection):
    """Projects what the optimizer adds to the prompts of a block from two sides, and keeps their means and deviations.

    Rows must not change the products with queries, and columns not those with attention weights. Both hold for the output of
    attention if the norm before it maps the change of a prompt linearly, for which its mean and deviation are kept by a loss.
    """

    batch = 8
    remembered = ("bases", "used", "grams", "targets", "drifted")

    def __init__(
        self, *, affinity: Share, aggregation: Share, drift: Weight, summed: bool, nullity: Literal["corner", "smoothed"],
        divided: bool, scaled: bool, images: Count | None,
    ) -> None:  # fmt: skip
        """`affinity` and `aggregation`: weights η of the projections of rows and columns, beside 1 − η of the update as it is.
        `drift`: weight of the loss; `summed`: over the prompts of a block, not averaged. `images`: how many of a task are
        recorded; null: all.

        `nullity`: the null space begins after the sharpest corner in the singular values; or at the one in smoothed values.
        `divided`: projections are divided by their Frobenius norm. `scaled`: the conditions have the factors of the norm.
        """
        super().__init__()
        self.shares = {"token": affinity, "weight": aggregation}
        self.drift, self.summed, self.smoothed, self.divided = drift, summed, nullity == "smoothed", divided
        self.scaled, self.images = scaled, images
        self.grams: dict[str, Tensor] = {}  # Σ xᵀx of all tasks so far, (1, width, width)
        self.targets: Tensor | None = None  # means and deviations at the beginning of the task, (2, blocks, prompts)
        self.drifted = 0.0  # the loss at the end of the task, without its weight

    def attach(self, method: Method) -> None:
        super().attach(method)
        columns = [site.width for site in self.sites(method) if site.columns]
        if not columns:
            raise UserError("nsp2 needs prompts in the attention of each block; type method=pet method.kind=prompt")
        if min(columns) < FEWEST:
            raise UserError(f"nsp2 needs {FEWEST} prompts or more in a block; method.size={min(columns)}, type method.size=4")

    def begin_task(self, method: Method, task: Task) -> None:
        self.begin()
        self.targets = moments(self._prompts(method)) if task.old else None

    # --- a step -------------------------------------------------------------------------------------------------------

    def before_step(self, method: Method, phase: Phase) -> None:
        """Add the gradient of the loss on means and deviations. Remember the prompts, since each step is projected."""
        self.anchors = self.anchored(method)
        sites = [site for site in self._tokens(method) if learns(site)]
        if self.targets is not None and self.drift and sites:
            with torch.enable_grad():
                prompts = self._prompts(method).requires_grad_()
                (change,) = torch.autograd.grad(self.drift * self._loss(prompts, self.targets), prompts)
            torch._foreach_add_([site.parameter.grad[site.index] for site in sites], list(change))

    def _loss(self, prompts: Tensor, targets: Tensor) -> Tensor:
        """Return Σ |mean − target| + |deviation − target| over blocks, and over or in the mean of a block's prompts."""
        off = (moments(prompts) - targets).abs().sum()
        return off if self.summed else off / prompts.shape[1]

    def remover(self, site: ProjectionSite) -> Tensor:
        """What is removed is 1 − (η·B + (1 − η)·1) = η·(1 − B), for the projector B onto the null space."""
        held = projector(self.used[site.name])
        one = torch.eye(held.shape[1], dtype=held.dtype, device=held.device)
        null = one - held
        return self.shares[site.kind] * (one - null / (null.norm() if self.divided else 1))

    def _tokens(self, method: Method) -> list[ProjectionSite]:
        return [site for site in self.sites(method) if not site.columns]

    def _prompts(self, method: Method) -> Tensor:
        """Return a copy of all prompts, (blocks, prompts, width)."""
        return torch.stack([self.rows(site.parameter.data, site)[:, 0] for site in self._tokens(method)])

    # --- the inputs of a task -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def end_task(self, method: Method, task: Task) -> None:
        """Add the inputs of the task, under the evaluation transform, and take the null spaces anew."""
        images, sites = task.train_plain, self.sites(method)
        count = min(self.images or len(images), len(images))
        for found in self.inputs(method, images, count, sites, released=not self.scaled):
            for name, inputs in found.items():
                self.grams[name] = self.grams.get(name, 0) + gram(inputs)
        for site in sites:
            values, vectors = torch.linalg.eigh(self.grams[site.name][0])
            self.bases[site.name] = [vectors.flip(1)[:, : before_corner(values.flip(0), smoothed=self.smoothed)]]
        self.drifted = 0.0 if self.targets is None else float(self._loss(self._prompts(method), self.targets))

    def facts(self) -> dict:
        """Return the rank of what is kept out of each site, and the drift of means and deviations in the task."""
        return {"ranks": {name: basis.shape[1] for name, (basis,) in self.bases.items()}, "drift": round(self.drifted, 6)}


def moments(prompts: Tensor) -> Tensor:
    """Return the mean and the standard deviation of each prompt over its width: (…, width) → (2, …)."""
    return torch.stack([prompts.mean(-1), prompts.std(-1, unbiased=False)])
