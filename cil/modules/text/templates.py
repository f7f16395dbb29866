"""Text templates for class names: the sets of CLIP's release, by name, or a list of texts."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from cil.common.errors import UserError, nearest

LOOKS = ("", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")
NAMED = ("imagenet80", "cifar18")


def templates(wanted: str | Sequence[str]) -> tuple[str, ...]:
    """Return the templates. `imagenet80` and `cifar18` (for CIFAR10 and CIFAR100) are those of CLIP's authors."""
    if isinstance(wanted, str) and wanted not in NAMED:
        raise UserError(f"method.templates={wanted} is not known; {nearest(wanted, NAMED)}; or list texts: "
                        "method.templates='[\"a photo of a {}.\"]'")  # fmt: skip
    if wanted == "imagenet80":
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    if wanted == "cifar18":
        sizes = [f"a photo of {article} {size} {{}}." for article in ("a", "the") for size in ("small", "big")]
        return (*(f"a {look}photo of {article} {{}}." for article in ("a", "the") for look in LOOKS), *sizes)
    if not wanted or any(not isinstance(text, str) or text.count("{}") != 1 for text in wanted):
        raise UserError("method.templates wants at least one text with one {} where the name goes, as in "
                        "method.templates='[\"a photo of a {}.\"]'")  # fmt: skip
    return tuple(wanted)


def encoded(backbone: nn.Module, templates: Sequence[str], names: Sequence[str]) -> Tensor:
    """Return the text features of the names, (names, width), normalized: the mean over the templates of normalized ones."""
    texts = [template.format(name) for name in names for template in templates]
    found = F.normalize(backbone.encode_text(texts).float(), dim=1).view(len(names), len(templates), -1)
    return F.normalize(found.mean(1), dim=1)
