"""The common part of modifiers that keep updates out of the subspaces of old inputs."""

from collections.abc import Iterator

import torch
from torch import Tensor

from cil.capabilities import HasProjectionSites, ProjectionSite, require
from cil.method import LabelledImages, Method, Phase
from cil.modifier import Modifier
from cil.modules.statistics.subspace import held, projector


class Projection(Modifier):
    """Keeps a basis for each projection site, and removes from each update what lies in it."""

    batch = 32  # images at a time whose inputs are collected; only rounding depends on it
    remembered: tuple[str, ...] = ("bases", "used", "anchors")

    def __init__(self) -> None:
        self.bases: dict[str, list[Tensor]] = {}  # of all tasks so far: (width, rank) for each head
        self.used: dict[str, list[Tensor]] = {}  # of the tasks before this one
        self.anchors: dict[str, Tensor] = {}  # the rows of the sites from which updates are measured
        self._removers: dict[tuple[str, ...], Tensor] = {}

    def attach(self, method: Method) -> None:
        require(method, HasProjectionSites, type(self).__name__.lower())

    def sites(self, method: Method) -> list[ProjectionSite]:
        """Return the sites that are projected."""
        return list(method.projection_sites())

    def rows(self, values: Tensor, site: ProjectionSite) -> Tensor:
        """Return a view of the site's slice, (rows, heads, width of a head)."""
        own = values[site.index]
        return own.mT[:, None] if site.columns else own.view(-1, site.heads, own.shape[-1])

    def anchored(self, method: Method) -> dict[str, Tensor]:
        """Return a copy of the rows of each site."""
        return {site.name: self.rows(site.parameter.data, site).clone() for site in self.sites(method)}

    def begin(self) -> None:
        """Use the bases of the tasks so far."""
        self.used, self._removers = dict(self.bases), {}

    @torch.no_grad()
    def project_updates(self, method: Method) -> None:
        """Remove from the difference between parameters and anchors what lies in the bases."""
        for sites, matrices in self.groups(self.sites(method)):
            rows = [self.rows(site.parameter.data, site) for site in sites]
            moved = torch.stack(rows) - torch.stack([self.anchors[site.name] for site in sites])
            torch._foreach_sub_(rows, list(held(moved, matrices).contiguous()))

    def after_step(self, method: Method, phase: Phase) -> None:
        self.project_updates(method)

    def groups(self, sites: list[ProjectionSite]) -> list[tuple[list[ProjectionSite], Tensor]]:
        """Return the sites whose basis is not empty, those of one shape together, each group with its matrices."""
        groups: dict[tuple, list[ProjectionSite]] = {}
        for site in sites:
            if any(basis.shape[1] for basis in self.used.get(site.name, ())):
                key = (site.columns, self.rows(site.parameter.data, site).shape)
                groups.setdefault(key, []).append(site)
        return [(sites, self._remover(sites)) for sites in groups.values()]

    def _remover(self, sites: list[ProjectionSite]) -> Tensor:
        names = tuple(site.name for site in sites)
        if names not in self._removers:
            self._removers[names] = torch.stack([self.remover(site).to(site.parameter) for site in sites])
        return self._removers[names]

    def remover(self, site: ProjectionSite) -> Tensor:
        """Return the matrix of each head, (heads, width, width), with which rows give the part that is removed."""
        return projector(self.used[site.name])

    def inputs(
        self, method: Method, images: LabelledImages, count: int, sites: list[ProjectionSite], *, released: bool
    ) -> Iterator[dict[str, Tensor]]:
        """Yield what the sites are multiplied with, for `count` random images in batches."""
        order, random = torch.randperm(len(images))[:count], torch.Generator()
        random.manual_seed(int(torch.randint(2**62, ())))
        for rows in order.split(self.batch):
            yield method.projection_inputs(images.batch(rows, sites[0].parameter.device, random).images, released)

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self._removers = {}


def learns(site: ProjectionSite) -> bool:
    """Whether the phase trains the parameter. If not, its gradient may be an old one."""
    return site.parameter.requires_grad and site.parameter.grad is not None
