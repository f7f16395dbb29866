"""What a method or backbone can offer, asked for by whoever needs it. Never ask for a class or a name.

The docstring of each protocol finishes the sentence "… needs a host that …".
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from cil.mistakes import Mistake


@runtime_checkable
class HasText(Protocol):
    """encodes class names as well as images (backbone=clip_tiny, clip_vit_b16 or clip_vit_l14)"""

    logit_scale: Tensor

    def encode_text(self, texts: Sequence[str]) -> Tensor: ...


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


def require(thing: object, capability: type, who: str) -> None:
    """Stop with one line when `thing` does not offer `capability`."""
    if not isinstance(thing, capability):
        what = capability.__doc__.strip().splitlines()[0]
        raise Mistake(f"{who} needs a {_kind(thing)} that {what}; {type(thing).__name__} does not")


def _kind(thing: object) -> str:
    return "method" if hasattr(thing, "training_step") else "backbone"
