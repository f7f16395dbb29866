"""Images of noise: as many and as large as a data set's, for speed alone. Nothing can be learned from them."""

import torch

from cil.data import Images
from cil.mistakes import Mistake


def noise(root: str, *, classes: int, train_per_class: int, test_per_class: int, size: int, seed: int) -> Images:
    """Splits of equally many images a class, `size` pixels wide and high; nothing is kept under `root`."""
    if min(classes, train_per_class, test_per_class, size) < 1:
        raise Mistake("dataset=noise needs at least one class, image and pixel; type dataset.classes=100 "
                      "dataset.train_per_class=500 dataset.test_per_class=100 dataset.size=32")  # fmt: skip
    random = torch.Generator().manual_seed(seed)
    made = []
    for count in (train_per_class, test_per_class):
        made += [
            torch.randint(256, (classes * count, size, 3, size), dtype=torch.uint8, generator=random),
            torch.arange(classes).repeat_interleave(count),
        ]
    return Images("noise", *made, tuple(f"noise {number + 1}" for number in range(classes)))
