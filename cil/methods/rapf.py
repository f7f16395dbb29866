"""RAPF: separates similar classes with a hinge loss, and fuses adapters after each task (Huang et al., ECCV 2024)."""

from torch import Tensor, nn

from cil.capabilities import HasText, require
from cil.common.ranges import Share
from cil.method import Method
from cil.modules.adapters.fused_adapter import FusedAdapter, OldClasses, Start
from cil.modules.adapters.fusion import decomposed
from cil.modules.text import ClassTexts


class RAPF(FusedAdapter, Method):
    """Trains a linear adapter on frozen CLIP features. After each task each coordinate of the adapter keeps at least the share
    `bias` of its change, and the coordinate that changed most keeps all of it."""

    may_differ = ("bias", "start")

    def __init__(
        self, backbone: nn.Module, *, class_texts: ClassTexts, old_classes: OldClasses, bias: Share, start: Start = "random"
    ) -> None:  # fmt: skip
        """`bias`: least share of its change that a coordinate keeps. Other settings: see FusedAdapter."""
        require(backbone, HasText, "rapf")
        super().__init__(backbone, class_texts=class_texts, old_classes=old_classes, start=start)
        self.bias = bias

    def merged(self, old: Tensor, new: Tensor) -> Tensor:
        return decomposed(old, new, self.bias)

    def facts(self) -> dict:
        return {"near pairs": len(self.pairs), "ridge": self.gaussians.ridge}
