"""Gradient projection (PGP: Qiao et al., ICLR 2024; PEGP: 2024), on any method that names its projection sites.

An update Δp of a prompt p does not change x·pᵀ for an old input x if x·Δpᵀ = 0. After each task the main directions of its
inputs are added to a basis for each projection site. In later tasks the part of each update in that basis is removed. PEGP
does the same with the rows of the matrices of adapters and LoRA.
"""

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from cil.capabilities import ProjectionSite
from cil.common.errors import UserError
from cil.common.ranges import Count, Range
from cil.method import Method, Phase, Scenario, Task
from cil.modules.projection import Projection, learns
from cil.modules.statistics.subspace import extend, extend_by_scores, gram, held, scores

KINDS = ("token", "key", "prefix", "image")  # of PGP; PEGP has adapter and lora, and weight belongs to NSP2
Energy = Annotated[float, Range(0, 1, open="least", example=0.5)]  # a share of it


class PGP(Projection):
    """Projects the rows of each site. Its anchors are their values at the beginning of the task.

    The sum of all updates in a task is projected, not each update, so that rounding errors do not add up.
    """

    remembered = (*Projection.remembered, "removed")

    def __init__(
        self, *, space: Literal["feature", "sample"], project: Literal["update", "gradient"],
        inputs: Literal["met", "released"], sampled: Literal["after", "released"], images: Count | None,
        energy: dict[str, Energy | None], components: dict[str, Count], adapter: Energy | None = 0.999,
        lora: Energy | None = 0.99,
    ) -> None:  # fmt: skip
        """`images`: how many images of a task the basis is computed from; null: as many as the backbone is wide. `energy`: for
        each kind of site, the share of the squared norm that its basis must hold; null: this kind is not projected. `adapter`
        and `lora`: the same for the two kinds of PEGP.

        `space`: `feature`, or the released code's `sample` with its number of principal `components`. `project`: the `update`
        that the optimizer made of the gradient, or only the `gradient`. `inputs`: those that the site has `met`, or what the
        released code records. `sampled`: `after` each task, or when the released code does.
        """
        super().__init__()
        for key, node in (("energy", energy), ("components", components)):
            if set(node) != set(KINDS):
                raise UserError(f"modifier.pgp.{key} has {', '.join(node)}; it needs {', '.join(KINDS)}, each once")
        self.by_samples, self.updates, self.as_released = space == "sample", project == "update", inputs == "released"
        self.always_after, self.images, self.components = sampled == "after", images, components
        self.energy: dict[str, Any] = {**energy, "adapter": adapter, "lora": lora, "weight": None}
        self.removed: dict[str, Tensor] = {}  # squared norms of this task's gradients: of the removed part, and of all

    def attach(self, method: Method) -> None:
        super().attach(method)
        for site in self.sites(method) if self.by_samples else ():
            rows, key = self.rows(site.parameter.data, site).shape[0], f"modifier.pgp.components.{site.kind}"
            if site.own and rows < self.components[site.kind]:
                raise UserError(f"{key}={self.components[site.kind]}, but {site.name} has {rows} rows; type {key}={rows}")

    def suits(self, method: Method, scenario: Scenario) -> None:
        super().suits(method, scenario)
        wide = method.projection_sites()[0].width
        task = min(scenario, key=lambda task: len(task.train))
        if self.by_samples and min(self.images or wide, len(task.train)) != wide:
            raise UserError(f"modifier.pgp.space=sample multiplies gradients {wide} wide with a matrix over images, so it "
                            f"needs {wide} a task; task {task.index + 1} has {len(task.train)} and "
                            f"modifier.pgp.images={self.images}. Type modifier.pgp.space=feature, or take fewer tasks and "
                            "modifier.pgp.images=null")  # fmt: skip

    def begin_task(self, method: Method, task: Task) -> None:
        self.begin()
        sites, self.anchors = self.sites(method), self.anchored(method)
        self.removed = {site.name: torch.zeros(2, device=site.parameter.device) for site in sites}
        if not self.always_after:
            self._collect(method, task, [site for site in sites if site.sampled == "before"])

    def end_task(self, method: Method, task: Task) -> None:
        self._collect(method, task, [s for s in self.sites(method) if self.always_after or s.sampled == "after"])

    def sites(self, method: Method) -> list[ProjectionSite]:
        return [site for site in super().sites(method) if self.energy[site.kind] is not None]

    def rows(self, values: Tensor, site: ProjectionSite) -> Tensor:
        """In sample space all heads are one."""
        rows = super().rows(values, site)
        return rows.flatten(1)[:, None] if self.by_samples else rows

    # --- a step -------------------------------------------------------------------------------------------------------

    def before_step(self, method: Method, phase: Phase) -> None:
        """Replace each gradient g by g − g·F·Fᵀ, after clipping and before the optimizer, as in the released code."""
        for sites, matrices in self.groups([site for site in self.sites(method) if learns(site)]):
            gradients = [self.rows(site.parameter.grad, site) for site in sites]
            whole = torch.stack(gradients)
            out = held(whole, matrices).contiguous()
            sizes = torch.stack([out, whole], 1).square().sum((2, 3, 4))
            torch._foreach_add_([self.removed[site.name] for site in sites], list(sizes))
            torch._foreach_sub_(gradients, list(out))

    def after_step(self, method: Method, phase: Phase) -> None:
        """Project the update too. Adam scales each entry by itself and has momentum, so its update leaves the subspace."""
        if self.updates:
            self.project_updates(method)

    # --- the inputs of a task -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def _collect(self, method: Method, task: Task, sites: list[ProjectionSite]) -> None:
        if not sites:
            return
        count = min(self.images or sites[0].width, len(task.train))
        rows_by_image: dict[str, list[Tensor]] = {}
        grams: dict[str, Tensor] = {}
        for found in self.inputs(method, task.train, count, sites, released=self.as_released):
            for name, inputs in found.items():
                if self.by_samples:
                    rows_by_image.setdefault(name, []).append(inputs.flatten(1))
                else:
                    grams[name] = grams.get(name, 0) + gram(inputs)
        for site in sites:
            if self.by_samples:
                self.bases[site.name] = self._extended_by_scores(site, rows_by_image.pop(site.name), task)
            else:
                self.bases[site.name] = self._extended(site, grams[site.name])

    def _extended(self, site: ProjectionSite, total: Tensor) -> list[Tensor]:
        """Extend the basis by the directions of the inputs and, where the site's own rows attend to each other, by theirs."""
        empty = [own.new_zeros(len(own), 0) for own in total]
        bases, terms = self.bases.get(site.name, empty), [total]
        if site.own:
            terms.append(gram(self.rows(site.parameter.data, site)[None]))
        for term in terms:
            bases = [extend(basis, own, self.energy[site.kind]) for basis, own in zip(bases, term, strict=True)]
        return bases

    def _extended_by_scores(self, site: ProjectionSite, rows: list[Tensor], task: Task) -> list[Tensor]:
        """As in the released code. PGP's adds the site's own rows, transposed, to the sum of scores after the first task.

        PEGP's decomposes the Gram matrix of all components, which is diagonal: its basis are the first unit vectors.
        """
        components = self.components.get(site.kind)
        if components is None:
            found = scores(torch.cat(rows), site.width).T
        else:
            found = scores(torch.cat(rows), components)
            if site.own and task.index >= site.own_from:
                found = found + scores(self.rows(site.parameter.data, site)[:, 0].T, components)
        (basis,) = self.bases.get(site.name, [None])
        return [extend_by_scores(basis, found, self.energy[site.kind])]

    # --- the record ---------------------------------------------------------------------------------------------------

    def facts(self) -> dict:
        """Return the rank of each basis after the task, and the share of the squared gradient that was removed in it."""
        shares = {name: (float(out / total) if total else 0.0) for name, (out, total) in self.removed.items()}
        ranks = {name: [basis.shape[1] for basis in bases] for name, bases in self.bases.items()}
        return {"ranks": ranks, "removed": {name: round(share, 6) for name, share in shares.items()}}
