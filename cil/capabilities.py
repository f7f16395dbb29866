"""What a method or backbone can offer, asked for by whoever needs it. Never ask for a class or a name.

The docstring of each protocol finishes the sentence "… needs a host that …".
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
    """encodes class names as well as images (backbone=clip_tiny, clip_vit_b16 or clip_vit_l14)"""

    logit_scale: Tensor
    text_width: int
    image_width: int
    image_tower: nn.Module

    def text_parameters(self) -> Iterable[nn.Parameter]: ...

    def embed(self, word: str) -> Tensor: ...

    def context(self, count: int, length: int, phrase: str | None) -> Tensor: ...

    def encode_text(self, texts: Sequence[str]) -> Tensor: ...

    def room_for(self, names: Sequence[str], length: int) -> None: ...

    def encode_contexts(self, contexts: Tensor, names: Sequence[str]) -> Tensor: ...


@runtime_checkable
class HasFeatures(Protocol):
    """gives one feature vector an image (method=finetune, joint or class_mean)"""

    def features(self, images: Tensor) -> Tensor: ...


@runtime_checkable
class HasFrozenStage(Protocol):
    """has a first stage that no training changes, so that its result is computed once an image

    predict(images) equals predict_from(frozen_stage(images), …); the second argument loads the images if they are needed.
    """

    def frozen_stage(self, images: Tensor) -> Tensor: ...

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor: ...


@runtime_checkable
class LearnsFromFrozen(HasFrozenStage, Protocol):
    """learns from what its frozen stage gives alone

    training_step(batch, phase) equals losses_from(Known(frozen_stage(batch.images), batch.labels), phase).
    """

    def losses_from(self, known: Known, phase: object) -> dict[str, Tensor]: ...


@runtime_checkable
class LearnsTogether(LearnsFromFrozen, Protocol):
    """can learn beside others of its kind: one stacked parameter, whose losses come from what was drawn (method=rapf or awpf)

    losses_from(known, phase) equals [0] of losses_of(adapter[None], drawn(known, phase) with a dimension before each part).
    """

    adapter: nn.Parameter
    after_training: tuple[str, ...]  # settings in which those that learn together may differ: a step does not see them

    def drawn(self, known: Known, phase: object) -> tuple[Tensor, ...]: ...

    def losses_of(self, adapters: Tensor, drawn: tuple[Tensor, ...]) -> dict[str, Tensor]: ...


@runtime_checkable
class ChoosesPrompts(Protocol):
    """chooses text prompts by the image (method=attriclip)"""

    def frozen_stage(self, images: Tensor) -> Tensor: ...

    def choose(self, features: Tensor) -> Tensor: ...

    def alone(self) -> Tensor: ...


@runtime_checkable
class HasEmbedding(HasFrozenStage, Protocol):
    """moves frozen features to where it compares them (method=rapf or awpf)"""

    def embedded(self, frozen: Tensor) -> Tensor: ...


@runtime_checkable
class HasCamLayer(Protocol):
    """has a layer of patches in front of its last attention (backbone=clip_tiny, clip_vit_b16 or clip_vit_l14)"""

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
    """walks through its blocks in passes that can be compiled (backbone=vit_…, or clip_…)"""

    passes: Callable[..., Tensor]


@runtime_checkable
class TakesAdapters(Protocol):
    """takes adapters beside its MLPs (backbone=vit_b16_augreg_in21k, another vit_b16_… or vit_tiny)"""

    width: int
    depth: int

    def tokens(self, images: Tensor) -> Tensor: ...

    def __call__(self, images: Tensor, *, adapters: Sequence[Callable[[Tensor], Tensor]] | None = None) -> Tensor: ...


@runtime_checkable
class KnowsImages(Protocol):
    """keeps what it computed of images and answers from that, in parts that become more with the tasks

    predict(images) equals predict_from(known(images), …), where the view of the images has no chance.
    """

    def known(self, images: LabelledImages) -> Tensor: ...

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor: ...


Kind = Literal["token", "key", "prefix", "image"]  # of a projection site: looks up energy and components


@runtime_checkable
class ReadsWithTokens(Protocol):
    """reads its patches with a token in its last block (backbone=convit_dytox…, or convit_tiny…)"""

    width: int
    std: float  # of a new token
    token: nn.Parameter
    last: nn.Module

    def read(self, tokens: Tensor, patches: Tensor) -> Tensor: ...

    def __call__(self, images: Tensor, tokens: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class HasMaps(Protocol):
    """shows where its patches look (backbone=convit_dytox…, or convit_tiny…)"""

    side: int  # patches

    def maps(self, images: Tensor) -> list[Tensor]: ...


@runtime_checkable
class HasForeground(Protocol):
    """shows where in an image it looks (backbone=rps_net or rps_net_tiny)

    attended(images) gives the features, and of each image a map between 0 and 1, (batch, 1, height, width).
    """

    def attended(self, images: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class ProjectionSite:
    """A slice of a parameter whose update must leave old inputs undisturbed.

    `parameter[index]` is made of rows that old inputs are multiplied with, in `heads` parts of which each meets its own.
    """

    name: str  # "e_prefix.3": unique within the host
    kind: Kind
    parameter: nn.Parameter
    index: tuple = ()
    heads: int = 1
    own: bool = False  # its rows also meet one another, so that they belong to the inputs
    own_from: int = 0  # the first task after which released code counts them in
    sampled: Literal["before", "after"] = "after"  # when released code collects inputs, relative to training the task

    @property
    def width(self) -> int:
        """Of a whole row."""
        return self.heads * self.parameter.shape[-1]


@runtime_checkable
class HasProjectionSites(Protocol):
    """has projection sites (method=l2p, dualprompt or clip_prompt)"""

    def projection_sites(self) -> list[ProjectionSite]: ...

    def projection_inputs(self, images: Tensor, released: bool) -> dict[str, Tensor]:
        """What the rows of each site are multiplied with, (batch, rows, heads, width of a head), by the site's name.

        `released`: as the released code records it, otherwise as the site meets it.
        """
        ...


def require(thing: object, capability: type, who: str) -> None:
    """Stop with one line when `thing` does not offer `capability`."""
    if not isinstance(thing, capability):
        what = capability.__doc__.strip().splitlines()[0]
        raise UserError(f"{who} needs a {_kind(thing)} that {what}; {type(thing).__name__} does not")


def _kind(thing: object) -> str:
    return "method" if hasattr(thing, "training_step") else "backbone"
