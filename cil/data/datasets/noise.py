"""Images of noise: as many and as large as a data set's, for speed alone. Nothing can be learned from them."""

import torch

from cil.common.ranges import Count, Seed
from cil.data.images import Images


def noise(root: str, *, classes: Count, train_per_class: Count, test_per_class: Count, size: Count, seed: Seed) -> Images:
    """Splits of equally many images a class, `size` pixels wide and high; nothing is kept under `root`."""
    random = torch.Generator().manual_seed(seed)
    made = []
    for count in (train_per_class, test_per_class):
        made += [
            torch.randint(256, (classes * count, size, 3, size), dtype=torch.uint8, generator=random),
            torch.arange(classes).repeat_interleave(count),
        ]
    return Images("noise", *made, tuple(f"noise {number + 1}" for number in range(classes)))
