"""The texts that stand for classes: templates, as a list or by the names of the sets of CLIP's release, with class names."""

from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from cil.common.errors import UserError, nearest
from cil.common.switches import switches
from cil.data.scenario import Scenario

LOOKS = ("", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")
NAMED = ("imagenet80", "cifar18")


def written(names: Iterable[str], underscores: bool) -> list[str]:
    """Write names with spaces, as CoOp does, or with underscores as in CIFAR100's own names, as some released code does."""
    return [plain(name.replace(" ", "_") if underscores else name) for name in names]


def plain(name: str) -> str:
    """Put spaces into start and end tokens within a name, so that the tokenizer does not treat them as such."""
    for token in ("start_of_text", "end_of_text", "|startoftext|", "|endoftext|"):
        name = name.replace(f"<{token}>", f"< {token} >")
    return name


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


@switches
class ClassTexts:
    """The texts of the classes:

    - `templates`: texts in which {} stands for the class name, or the name of a predefined set.
    - `underscores`: write class names with underscores instead of spaces.
    """

    templates: str | Sequence[str]
    underscores: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "templates", templates(self.templates))

    def check(self, backbone: nn.Module, scenario: Scenario) -> None:
        """Raise an error if the text of a class is too long for the encoder."""
        backbone.room_for([max(self.templates, key=len).format(name) for name in scenario.class_names], 0)

    def each(self, backbone: nn.Module, names: Sequence[str]) -> Tensor:
        """Return the features of all texts of the classes, (names, templates, width), as the encoder gives them."""
        texts = [template.format(name) for name in written(names, self.underscores) for template in self.templates]
        return backbone.encode_text(texts).float().unflatten(0, (len(names), -1))

    def encoded(self, backbone: nn.Module, names: Sequence[str]) -> Tensor:
        """Return the features of the classes, (names, width), normalized: the mean over the templates of normalized ones."""
        return F.normalize(F.normalize(self.each(backbone, names), dim=2).mean(1), dim=1)
