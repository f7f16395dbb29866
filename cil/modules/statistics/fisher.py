"""How much each weight matters for the answers given: the diagonal of the Fisher information (EWC)."""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

CHUNK = 16  # images whose gradients lie side by side


def per_sample(
    network: nn.Module, names: Iterable[str], batches: Iterable[tuple[Tensor, Tensor]], first: int = 0
) -> dict[str, Tensor]:  # fmt: skip
    """The mean over images of the squared gradient of log p(label), of the named parameters.

    `network` gives logits and is in evaluation mode: no image may depend on another. `first`: of the classes that compete.
    """
    own, rest = parted(network, names)

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(network, {**rest, **weights}, (image[None],))
        return F.cross_entropy(logits[:, first:].float(), label[None] - first)

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    total, count = {name: torch.zeros_like(value) for name, value in own.items()}, 0
    for images, labels in batches:
        for some, known in zip(images.split(CHUNK), labels.split(CHUNK)):
            with sdpa_kernel(SDPBackend.MATH):  # the attention that a vmap knows
                found = gradients(own, some, known)
            for name, each in found.items():
                total[name] += each.square().sum(0)
        count += len(labels)
    return {name: value / max(count, 1) for name, value in total.items()}


def per_batch(
    network: nn.Module, names: Iterable[str], batches: Iterable[tuple[Tensor, Tensor]], first: int = 0
) -> dict[str, Tensor]:  # fmt: skip
    """As PyCIL, FACIL and Avalanche have it: the square of a batch's mean gradient, about 1/batch of the above."""
    own, rest = parted(network, names)

    def loss(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        logits = functional_call(network, {**rest, **weights}, (images,))
        return F.cross_entropy(logits[:, first:].float(), labels - first)

    total, count = {name: torch.zeros_like(value) for name, value in own.items()}, 0
    for images, labels in batches:
        for name, found in grad(loss)(own, images, labels).items():
            total[name] += found.square() * len(labels)
        count += len(labels)
    return {name: value / max(count, 1) for name, value in total.items()}


def parted(network: nn.Module, names: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The named parameters, and all else that the network is made of; none of it learns."""
    chosen, everything = set(names), {**dict(network.named_parameters()), **dict(network.named_buffers())}
    values = {name: value.detach() for name, value in everything.items()}
    return {k: v for k, v in values.items() if k in chosen}, {k: v for k, v in values.items() if k not in chosen}


def drift(now: Mapping[str, Tensor], anchor: Mapping[str, Tensor], weight: Mapping[str, Tensor]) -> Tensor:
    """½ Σ weight · (now − anchor)², over what existed at the anchor: of a head that has grown, its first rows."""
    parts = [(weight[name] * (now[name][: len(old)] - old).square()).sum() for name, old in anchor.items()]
    return 0.5 * torch.stack(parts).sum()
