"""What all backbones share: the input size and pixel normalisation, and forward passes that may be compiled."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from cil.common.errors import UserError, nearest
from cil.data.transforms.views import ImageSpec

NORMS = {
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # [0, 1], as in the published code of all prompt methods
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}

Walk = Callable[..., Tensor]  # (backbone, batch, …) → features

BACKEND = "inductor"  # of torch.compile; on a CPU it needs a C++ compiler
VARIANTS = 64  # of one forward pass: batch sizes, with and without gradients, prompts and prefixes, teacher copies


class Backbone(nn.Module):
    """Base class of all backbones. `forward` turns images, (batch, 3, height, width), into features, (batch, width)."""

    def __init__(self, image: ImageSpec, width: int) -> None:
        super().__init__()
        self.image, self.width = image, width
        self.identity: dict = {}  # of its weights

    def image_parameters(self) -> Iterator[nn.Parameter]:
        return self.parameters()

    def bare(self, images: Tensor) -> Tensor:
        """The forward pass that `make bench` compares with: the library's own, if there is another here."""
        return self(images)


def image_spec(node: dict, expects: dict | None) -> ImageSpec:
    """Return the input specification for the setting `{size, norm}`.

    `norm` is a key of NORMS, `{mean: [r, g, b], std: [r, g, b]}`, or `expected`: the normalisation with which the weights were
    trained. That is `expects` (None if it is not known).
    """
    for key in node:
        if key not in ("size", "norm"):
            raise UserError(f"backbone.image.{key} is not a setting; type backbone.image.norm=half (or {', '.join(NORMS)})")
    if set(node) != {"size", "norm"} or type(node["size"]) is not int or node["size"] < 1:
        raise UserError(f"backbone.image={node} needs a size in pixels and a norm; type backbone.image.size=224 and "
                        "backbone.image.norm=unit")  # fmt: skip
    norm = node["norm"]
    if norm == "expected":
        if expects is None:
            raise UserError("backbone.image.norm=expected needs weights of the registry, whose normalisation is known; "
                            f"type backbone.image.norm={', '.join(NORMS)} or {{mean: […], std: […]}}")  # fmt: skip
        norm = expects
    if isinstance(norm, dict):
        return ImageSpec(node["size"], *_of_mapping(norm))
    if norm not in NORMS:
        raise UserError(f"backbone.image.norm={norm} is not known; {nearest(str(norm), (*NORMS, 'expected'))}")
    return ImageSpec(node["size"], *NORMS[norm])


def _of_mapping(norm: dict) -> tuple[tuple, tuple]:
    mean, std = (norm.get(key, ()) for key in ("mean", "std"))
    good = set(norm) == {"mean", "std"} and all(
        isinstance(values, list | tuple) and len(values) == 3 and all(type(value) in (int, float) for value in values)
        for values in (mean, std)
    )
    if not good or min(std) <= 0:
        raise UserError(f"backbone.image.norm={norm} is not a normalisation; type backbone.image.norm="
                        "'{mean:[0.5,0.5,0.5],std:[0.5,0.5,0.5]}' (std above 0)")  # fmt: skip
    return tuple(map(float, mean)), tuple(map(float, std))


# --- compiled passes --------------------------------------------------------------------------------------------------


def plainly(walk: Walk, backbone: nn.Module, x: Tensor, **given: object) -> Tensor:
    """Run a forward pass without compilation."""
    return walk(backbone, x, **given)


class Passes:
    """Runs forward passes by torch.compile: with fewer, larger kernels, and on a GPU as one CUDA graph.

    Only batches of one of `sizes` are compiled, those that occur again and again. Outputs differ only by rounding, so
    `machine.compile` does not change the name of the output folder. After a compiler failure nothing is compiled any more.
    """

    def __init__(self, sizes: Iterable[int], device: torch.device, log: Callable[[str], None]) -> None:
        self.sizes, self._log = frozenset(sizes), log
        self._graphs = device.type == "cuda"
        self._compiled: dict[Walk, Walk] = {}
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)

    def __deepcopy__(self, memo: dict) -> "Passes":
        """Share the compiled passes with copies of the backbone, such as teachers."""
        return self

    def __call__(self, walk: Walk, backbone: nn.Module, x: Tensor, **given: object) -> Tensor:
        if len(x) not in self.sizes:
            return walk(backbone, x, **given)
        try:
            found = self._form(walk)(backbone, x, **given)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            plain = walk(backbone, x, **given)  # raises again if the error is not the compiler's
            self.sizes = frozenset()
            why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            self._log(f"machine.compile=on: the compiler failed, so that passes are not compiled from here on ({why[:160]})")
            return plain
        return found.clone() if self._graphs else found  # the next replay of a CUDA graph overwrites its output

    def _form(self, walk: Walk) -> Walk:
        if walk not in self._compiled:
            mode = {"mode": "reduce-overhead"} if self._graphs else {}
            self._compiled[walk] = torch.compile(walk, backend=BACKEND, dynamic=False, **mode)
        return self._compiled[walk]


def divided(count: int, parts: int) -> set[int]:
    """Return the sizes that occur when a batch of `count` images is split into `parts`."""
    return {(n + 1) * count // parts - n * count // parts for n in range(parts)} - {0}
