"""Prompt gradient projection (Qiao et al., ICLR 2024), on any method that names its projection sites.

An update Δp of a prompt p does not change x·pᵀ for an old input x if x·Δpᵀ = 0. After each task the main directions of its
inputs are added to a basis for each projection site. In later tasks the part of each update in that basis is removed.
"""

from typing import Annotated, Literal, get_args

import torch
from torch import Tensor

from cil.capabilities import HasProjectionSites, Kind, ProjectionSite, require
from cil.common.errors import UserError
from cil.common.ranges import Count, Range
from cil.data.scenario import Scenario, Task
from cil.method import Method, Phase
from cil.modifier import Modifier
from cil.modules.statistics.subspace import extend, extend_by_scores, held, projector, scores

BATCH = 32  # images at a time; nothing depends on it
KINDS = get_args(Kind)
Energy = Annotated[float, Range(0, 1, open="least", example=0.5)]  # a share of it


class PGP(Modifier):
    """Keeps a basis for each projection site, and the values of its parameters at the beginning of the task."""

    def __init__(
        self, *, space: Literal["feature", "sample"], project: Literal["update", "gradient"],
        inputs: Literal["met", "released"], sampled: Literal["after", "released"], images: Count | None,
        energy: dict[str, Energy | None], components: dict[str, Count],
    ) -> None:  # fmt: skip
        """`images`: how many images of a task the basis is computed from; null: as many as the backbone is wide. `energy`: for
        each kind of site, the share of the squared norm that its basis must hold; null: this kind is not projected.

        `space`: `feature`, or the released code's `sample` with its number of principal `components`. `project`: the `update`
        that the optimizer made of the gradient, or only the `gradient`. `inputs`: those that the site has `met`, or what the
        released code records. `sampled`: `after` each task, or when the released code does.
        """
        for key, node in (("energy", energy), ("components", components)):
            if set(node) != set(KINDS):
                raise UserError(f"modifier.pgp.{key} has {', '.join(node)}; it needs {', '.join(KINDS)}, each once")
        self.by_samples, self.updates, self.as_released = space == "sample", project == "update", inputs == "released"
        self.always_after, self.images, self.energy, self.components = sampled == "after", images, energy, components
        self.bases: dict[str, list[Tensor]] = {}  # of all tasks so far: (width, rank) for each head
        self.used: dict[str, list[Tensor]] = {}  # of the tasks before this one
        self.anchors: dict[str, Tensor] = {}  # the sites' rows at the beginning of the task
        self.removed: dict[str, Tensor] = {}  # squared norms of this task's gradients: of the removed part, and of all
        self._projectors: dict[tuple[str, ...], Tensor] = {}

    def attach(self, method: Method) -> None:
        require(method, HasProjectionSites, "pgp")
        for site in self._sites(method) if self.by_samples else ():
            rows, key = self._rows(site.parameter.data, site).shape[0], f"modifier.pgp.components.{site.kind}"
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
        self.used, self._projectors = dict(self.bases), {}
        sites = self._sites(method)
        self.anchors = {site.name: self._rows(site.parameter.data, site).clone() for site in sites}
        self.removed = {site.name: torch.zeros(2, device=site.parameter.device) for site in sites}
        if not self.always_after:
            self._collect(method, task, [site for site in sites if site.sampled == "before"])

    def end_task(self, method: Method, task: Task) -> None:
        self._collect(method, task, [s for s in self._sites(method) if self.always_after or s.sampled == "after"])

    # --- a step -------------------------------------------------------------------------------------------------------

    def before_step(self, method: Method, phase: Phase) -> None:
        """Replace each gradient g by g − g·F·Fᵀ, after clipping and before the optimizer, as in the released code."""
        for sites, matrices in self._projected(method, with_gradient=True):
            gradients = [self._rows(site.parameter.grad, site) for site in sites]
            whole = torch.stack(gradients)
            out = held(whole, matrices).contiguous()
            sizes = torch.stack([out, whole], 1).square().sum((2, 3, 4))
            torch._foreach_add_([self.removed[site.name] for site in sites], list(sizes))
            torch._foreach_sub_(gradients, list(out))

    def after_step(self, method: Method, phase: Phase) -> None:
        """Project the update too. Adam scales each entry by itself and has momentum, so its update leaves the subspace.

        The sum of all updates in this task is projected, not each update, so that rounding errors do not add up.
        """
        if self.updates:
            with torch.no_grad():
                for sites, matrices in self._projected(method):
                    rows = [self._rows(site.parameter.data, site) for site in sites]
                    moved = torch.stack(rows) - torch.stack([self.anchors[site.name] for site in sites])
                    torch._foreach_sub_(rows, list(held(moved, matrices).contiguous()))

    def _projected(self, method: Method, *, with_gradient: bool = False) -> list[tuple[list[ProjectionSite], Tensor]]:
        """Return the sites whose basis is not empty, those of one shape together, each group with its F·Fᵀ."""
        groups: dict[torch.Size, list[ProjectionSite]] = {}
        for site in self._sites(method):
            projected = any(basis.shape[1] for basis in self.used.get(site.name, ()))
            if projected and not (with_gradient and site.parameter.grad is None):
                groups.setdefault(self._rows(site.parameter.data, site).shape, []).append(site)
        return [(sites, self._projector(sites)) for sites in groups.values()]

    def _projector(self, sites: list[ProjectionSite]) -> Tensor:
        names = tuple(site.name for site in sites)
        if names not in self._projectors:
            self._projectors[names] = torch.stack([projector(self.used[site.name]).to(site.parameter) for site in sites])
        return self._projectors[names]

    def _sites(self, method: Method) -> list[ProjectionSite]:
        return [site for site in method.projection_sites() if self.energy[site.kind] is not None]

    def _rows(self, values: Tensor, site: ProjectionSite) -> Tensor:
        """Return a view of the site's slice, (rows, heads, width of a head). In sample space all heads are one."""
        rows = values[site.index].view(-1, site.heads, values.shape[-1])
        return rows.flatten(1)[:, None] if self.by_samples else rows

    # --- the inputs of a task -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def _collect(self, method: Method, task: Task, sites: list[ProjectionSite]) -> None:
        if not sites:
            return
        count = min(self.images or sites[0].width, len(task.train))
        order, random = torch.randperm(len(task.train))[:count], torch.Generator()
        random.manual_seed(int(torch.randint(2**62, ())))
        parts = (task.train.batch(rows, sites[0].parameter.device, random).images for rows in order.split(BATCH))
        rows_by_image: dict[str, list[Tensor]] = {}
        grams: dict[str, Tensor] = {}
        for images in parts:
            for name, inputs in method.projection_inputs(images, self.as_released).items():
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
            terms.append(gram(self._rows(site.parameter.data, site)[None]))
        for term in terms:
            bases = [extend(basis, own, self._energy(site)) for basis, own in zip(bases, term, strict=True)]
        return bases

    def _extended_by_scores(self, site: ProjectionSite, rows: list[Tensor], task: Task) -> list[Tensor]:
        """As in the released code, which adds the site's own rows, transposed, to the sum of scores after the first task."""
        components = self.components[site.kind]
        found = scores(torch.cat(rows), components)
        if site.own and task.index >= site.own_from:
            found = found + scores(self._rows(site.parameter.data, site)[:, 0].T, components)
        (basis,) = self.bases.get(site.name, [None])
        return [extend_by_scores(basis, found, self._energy(site))]

    def _energy(self, site: ProjectionSite) -> float:
        share = self.energy[site.kind]
        assert share is not None  # sites without one are left out
        return share

    # --- the record ---------------------------------------------------------------------------------------------------

    def facts(self) -> dict:
        """Return the rank of each basis after the task, and the share of the squared gradient that was removed in it."""
        shares = {name: (float(out / total) if total else 0.0) for name, (out, total) in self.removed.items()}
        ranks = {name: [basis.shape[1] for basis in bases] for name, bases in self.bases.items()}
        return {"ranks": ranks, "removed": {name: round(share, 6) for name, share in shares.items()}}

    def state_dict(self) -> dict:
        return {key: getattr(self, key) for key in ("bases", "used", "anchors", "removed")}

    def load_state_dict(self, state: dict) -> None:
        for key, value in state.items():
            setattr(self, key, value)
        self._projectors = {}


def gram(inputs: Tensor) -> Tensor:
    """Return Σ xᵀx of each head in double precision: (batch, rows, heads, width) → (heads, width, width)."""
    rows = inputs.flatten(0, -3).transpose(0, 1).double()
    return rows.transpose(1, 2) @ rows
