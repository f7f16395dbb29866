"""Random noise images, as many and as large as those of another dataset, to measure speed."""

import torch

from cil.common.ranges import Count, Seed
from cil.data.images import Images


def noise(root: str, *, classes: Count, train_per_class: Count, test_per_class: Count, size: Count, seed: Seed) -> Images:
    """Noise images of `size` × `size` pixels. Nothing is written below `root`."""
    random = torch.Generator().manual_seed(seed)
    made: list[torch.Tensor] = []
    for count in (train_per_class, test_per_class):
        made += [
            torch.randint(256, (classes * count, size, 3, size), dtype=torch.uint8, generator=random),
            torch.arange(classes).repeat_interleave(count),
        ]
    train, train_labels, test, test_labels = made
    names = tuple(f"noise {number + 1}" for number in range(classes))
    return Images("noise", train, train_labels, test, test_labels, names)
