"""Protocols for what a method or backbone can do. Code checks for a capability, never for a class or a name.

`require` puts the first line of a protocol's docstring into its error message: "… needs a backbone that …".
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from cil.common.errors import UserError
from cil.data.frozen_features import Known
from cil.data.images import LabelledImages


@runtime_checkable
class HasText(Protocol):
    """encodes class names as well as images (backbone=clip_tiny, clip_vit_b16, clip_vit_l14, siglip_b16 or open_clip)"""

    logit_scale: Tensor
    text_width: int
    image_tower: nn.Module

    def text_parameters(self) -> Iterable[nn.Parameter]: ...

    def embed(self, word: str) -> Tensor: ...

    def context(self, count: int, length: int, phrase: str | None) -> Tensor: ...

    def encode_text(self, texts: Sequence[str]) -> Tensor: ...

    def room_for(self, names: Sequence[str], length: int) -> None: ...

    def encode_contexts(self, contexts: Tensor, names: Sequence[str]) -> Tensor: ...


@runtime_checkable
class TakesImagePrompts(Protocol):
    """takes prompts in front of its image patches (backbone=clip_tiny, clip_vit_b16, clip_vit_l14 or siglip_b16)"""

    image_width: int

    def tokens(self, images: Tensor) -> Tensor: ...


@runtime_checkable
class HasBridge(HasText, Protocol):
    """projects its image features to its texts by one matrix (backbone=clip_tiny, clip_vit_b16 or clip_vit_l14)

    backbone(images, project=False) returns the features before the projection; `bridge` is (width, width before).
    """

    width: int
    bridge: Tensor

    def __call__(self, images: Tensor, *, project: bool = True) -> Tensor: ...


@runtime_checkable
class HasFeatures(Protocol):
    """computes one feature vector for each image (method=finetune, joint or class_mean)"""

    def features(self, images: Tensor) -> Tensor: ...


@runtime_checkable
class HasFrozenStage(Protocol):
    """has a frozen first stage, whose output is computed once for each image

    predict(images) equals predict_from(frozen_stage(images), …). The second argument loads the images if they are needed.
    """

    def frozen_stage(self, images: Tensor) -> Tensor: ...

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor: ...


@runtime_checkable
class LearnsFromFrozen(HasFrozenStage, Protocol):
    """is trained on the outputs of its frozen stage alone

    training_step(batch, phase) equals losses_from(Known(frozen_stage(batch.images), batch.labels), phase).
    """

    def losses_from(self, known: Known, phase: object) -> dict[str, Tensor]: ...


@runtime_checkable
class LearnsTogether(Protocol):
    """can be trained in one pass with other runs of its kind (a method that inherits from modules.together.Together)

    `inputs` returns what a training step of one run needs, with all random numbers drawn. `losses_of` computes the losses of
    all runs from their learned parameters, settings and inputs, each stacked along a new first dimension.
    """

    may_differ: tuple[str, ...]  # settings in which the runs may differ: losses are multiplied with them, or do not use them

    def only_alone(self) -> str | None: ...

    def inputs(self, batch: object, phase: object) -> tuple[Tensor | None, ...]: ...

    def losses_of(
        self, runs: Sequence, learned: dict[str, Tensor], settings: dict[str, Tensor], inputs: tuple, phase: object
    ) -> dict[str, Tensor]: ...


@runtime_checkable
class ChoosesPrompts(Protocol):
    """chooses text prompts for each image (method=attriclip)"""

    def frozen_stage(self, images: Tensor) -> Tensor: ...

    def choose(self, features: Tensor) -> Tensor: ...

    def alone(self) -> Tensor: ...


@runtime_checkable
class HasEmbedding(HasFrozenStage, Protocol):
    """maps frozen features into the space in which it compares them (method=rapf or awpf)"""

    def embedded(self, frozen: Tensor) -> Tensor: ...


@runtime_checkable
class HasCamLayer(Protocol):
    """has a layer of patch tokens in front of its last attention (backbone=clip_tiny, clip_vit_b16 or clip_vit_l14)"""

    cam_layer: nn.Module
    logit_scale: Tensor


@runtime_checkable
class TakesPrompts(Protocol):
    """takes prompts and prefixes (backbone=vit_b16_in21k, vit_b16_sam, vit_b16_dino or vit_tiny)"""

    width: int
    heads: int
    depth: int

    def tokens(self, images: Tensor) -> Tensor: ...

    def patches(self, images: Tensor) -> Tensor: ...

    def attention_queries(self, x: Tensor, blocks: list[int], prefixes: dict) -> dict[int, Tensor]: ...


@runtime_checkable
class HasPasses(Protocol):
    """has a forward pass that can be compiled (backbone=vit_…, or clip_…)"""

    passes: Callable[..., Tensor]


@runtime_checkable
class TakesAdapters(Protocol):
    """takes adapters beside its MLPs (backbone=vit_b16_augreg_in21k, another vit_b16_… or vit_tiny)"""

    width: int
    depth: int

    def tokens(self, images: Tensor) -> Tensor: ...

    def __call__(self, images: Tensor, *, adapters: Sequence[Callable[[Tensor], Tensor]] | None = None) -> Tensor: ...


@runtime_checkable
class TakesLoRA(Protocol):
    """takes changes of its attention weights (backbone=vit_b16_augreg_in21k, another vit_b16_… or vit_tiny)"""

    width: int
    depth: int

    def attention_inputs(self, x: Tensor, changes: Sequence) -> list[Tensor]: ...

    def __call__(self, images: Tensor, *, changes: Sequence | None = None) -> Tensor: ...


@runtime_checkable
class TakesDeepPrompts(Protocol):
    """takes prompts in each block (backbone=vit_b16_augreg_in21k, another vit_b16_… or vit_tiny)"""

    width: int
    depth: int

    def deep(self, prompts: Tensor) -> dict: ...

    def meetings(self, x: Tensor, prompts: Tensor, *, scaled: bool) -> Iterable[tuple[Tensor, Tensor]]: ...


@runtime_checkable
class KnowsImages(Protocol):
    """caches what it computes for each image and predicts from that; later tasks add parts

    predict(images) equals predict_from(known(images), …), if the transform of the images is deterministic.
    """

    def known(self, images: LabelledImages) -> Tensor: ...

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor: ...


Kind = Literal["token", "key", "prefix", "image", "adapter", "lora", "weight"]  # of a projection site; selects settings


@runtime_checkable
class ReadsWithTokens(Protocol):
    """reads its patches with a token in its last block (backbone=convit_dytox…, or convit_tiny…)"""

    width: int
    std: float  # of the initial values of a new token
    token: nn.Parameter
    last: nn.Module

    def read(self, tokens: Tensor, patches: Tensor) -> Tensor: ...

    def __call__(self, images: Tensor, tokens: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class HasMaps(Protocol):
    """has attention maps between its patches (backbone=convit_dytox…, or convit_tiny…)"""

    side: int  # of the grid, in patches

    def maps(self, images: Tensor) -> list[Tensor]: ...


@runtime_checkable
class HasForeground(Protocol):
    """shows where in an image it looks (backbone=rps_net or rps_net_tiny)

    attended(images) returns the features and, for each image, a map of values from 0 to 1, (batch, 1, height, width).
    """

    def attended(self, images: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class ProjectionSite:
    """A slice of a parameter whose update must not change the outputs for old inputs.

    Inputs are multiplied with the rows of `parameter[index]`. Each row has `heads` parts, one for each attention head.
    """

    name: str  # "e_prefix.3": unique within the host
    kind: Kind
    parameter: nn.Parameter
    index: tuple = ()
    heads: int = 1
    own: bool = False  # whether its rows are also multiplied with each other, and so count among the inputs
    own_from: int = 0  # the first task after which released code includes its own rows
    sampled: Literal["before", "after"] = "after"  # whether released code collects inputs before or after training a task
    columns: bool = False  # whether inputs are multiplied with the columns in place of the rows

    @property
    def width(self) -> int:
        """The width of a whole row, over all heads."""
        return self.heads * self.parameter[self.index].shape[-2 if self.columns else -1]


@runtime_checkable
class HasProjectionSites(Protocol):
    """has projection sites (method=l2p, dualprompt, clip_prompt or pet)"""

    def projection_sites(self) -> list[ProjectionSite]: ...

    def projection_inputs(self, images: Tensor, released: bool) -> dict[str, Tensor]:
        """Return, by the name of the site, what its rows are multiplied with: (batch, rows, heads, width of a head).

        `released`: as the released code records the inputs; otherwise the inputs that the site really gets.
        """
        ...


def require(thing: object, capability: type, who: str) -> None:
    """Raise a UserError if `thing` lacks `capability`; `who` needs it."""
    if not isinstance(thing, capability):
        what = (capability.__doc__ or f"offers {capability.__name__}").strip().splitlines()[0]
        kind = "method" if hasattr(thing, "training_step") else "backbone"
        raise UserError(f"{who} needs a {kind} that {what}; {type(thing).__name__} does not")
