"""The diagonal of the Fisher information matrix, an estimate of the importance of each weight (EWC)."""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

CHUNK = 16  # images whose gradients are in memory at a time


def per_sample(
    network: nn.Module, names: Iterable[str], batches: Iterable[tuple[Tensor, Tensor]], first: int = 0
) -> dict[str, Tensor]:  # fmt: skip
    """Return the mean over images of the squared gradient of log p(label), for the named parameters.

    `network` returns logits and is in evaluation mode, so that images do not depend on one another. The softmax is over the
    classes from `first` on.
    """
    own, rest = parted(network, names)

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(network, {**rest, **weights}, (image[None],))
        return F.cross_entropy(logits[:, first:].float(), label[None] - first)

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))
    total, count = {name: torch.zeros_like(value) for name, value in own.items()}, 0
    for images, labels in batches:
        for some, known in zip(images.split(CHUNK), labels.split(CHUNK)):
            with sdpa_kernel(SDPBackend.MATH):  # the only attention that works with vmap
                found = gradients(own, some, known)
            for name, each in found.items():
                total[name] += each.square().sum(0)
        count += len(labels)
    return {name: value / max(count, 1) for name, value in total.items()}


def per_batch(
    network: nn.Module, names: Iterable[str], batches: Iterable[tuple[Tensor, Tensor]], first: int = 0
) -> dict[str, Tensor]:  # fmt: skip
    """Return the mean squared gradient of whole batches, as PyCIL, FACIL and Avalanche do: about 1/batch of `per_sample`."""
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
    """Split a network into the named parameters and all other parameters and buffers, all detached."""
    chosen, everything = set(names), {**dict(network.named_parameters()), **dict(network.named_buffers())}
    values = {name: value.detach() for name, value in everything.items()}
    return {k: v for k, v in values.items() if k in chosen}, {k: v for k, v in values.items() if k not in chosen}


def drift(now: Mapping[str, Tensor], anchor: Mapping[str, Tensor], weight: Mapping[str, Tensor]) -> Tensor:
    """Return ½ Σ weight · (now − anchor)². If a head has grown, only the rows that the anchor has are counted."""
    parts = [(weight[name] * (now[name][: len(old)] - old).square()).sum() for name, old in anchor.items()]
    return 0.5 * torch.stack(parts).sum()
