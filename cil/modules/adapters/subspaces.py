"""Features in the subspaces of several sets of adapters (EASE, TUNA and MOS)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from cil.method import FrozenResults, LabelledImages
from cil.modules.adapters.parallel import Adapters, AdapterSize, side_by_side


class Subspaces(nn.Module):
    """Each set of adapters defines a subspace of features. The method predicts from all of them (`predict_from`)."""

    predict_from: Callable[..., Tensor]

    def __init__(self, backbone: nn.Module, size: AdapterSize) -> None:
        super().__init__()
        self.backbone, self.new = backbone, partial(size.made, backbone)
        self.new()  # raises an error for a wrong size before any training
        self.sets = nn.ModuleList()
        self.results: dict[int, FrozenResults] = {}  # cached features, by the number of the subspace

    def spaces(self) -> list[Adapters | None]:
        """Return the sets that predict. None, the backbone without adapters, may be the first."""
        return list(self.sets)

    def everywhere(self, images: Tensor) -> Tensor:
        """Returns the features in all subspaces, (batch, subspaces, width). All sets of adapters run in one pass."""
        tokens, sets = self.backbone.tokens(images), [own for own in self.spaces() if own is not None]
        found = self.backbone(tokens.repeat(len(sets), 1, 1), adapters=side_by_side(sets)).unflatten(0, (len(sets), -1))
        if self.spaces()[0] is None:
            found = torch.cat([self.backbone(tokens)[None], found])
        return found.float().transpose(0, 1)

    def known(self, images: LabelledImages) -> Tensor:
        """Returns the same features from the cache where possible. A method removes from `results` what has changed."""
        for number in range(len(self.spaces())):
            if number not in self.results:
                self.results[number] = FrozenResults(partial(self.feature, number), next(self.parameters()).device)
        return torch.stack([self.results[number].of(images) for number in range(len(self.spaces()))], 1)

    def feature(self, number: int, images: Tensor) -> Tensor:
        """Returns the features in one subspace, (batch, width)."""
        return self.backbone(images, adapters=self.spaces()[number]).float()

    def features(self, images: Tensor) -> Tensor:
        return self.everywhere(images).flatten(1)

    def predict(self, images: Tensor) -> Tensor:
        return self.predict_from(self.everywhere(images), lambda: images)
