"""Two datasets that are learned in turn, combined into one dataset."""

from collections.abc import Callable

import torch

from cil.common.errors import UserError, nearest
from cil.data.images import Images, Stacked


def in_turn(root: str, *, first: Callable[[], Images], second: Callable[[], Images], only: str | None) -> Images:
    """Combine two datasets. `only`: `first` or `second` returns one alone, as the baseline for the transfer between them."""
    parts = {"first": first, "second": second}
    if only is not None and only not in parts:
        raise UserError(f"dataset.only={only} is not known; {nearest(str(only), parts)}")
    made = [part() for name, part in parts.items() if only in (None, name)]
    offsets = [0, len(made[0].class_names)]
    return Images(
        "+".join(part.name for part in made),
        Stacked([part.train for part in made]),
        torch.cat([part.train_labels + offset for part, offset in zip(made, offsets)]),
        Stacked([part.test for part in made]),
        torch.cat([part.test_labels + offset for part, offset in zip(made, offsets)]),
        tuple(name for part in made for name in part.class_names),
        tuple((part.name, len(part.class_names)) for part in made),
        *("+".join(digests) if all(digests) else "" for digests in zip(*((part.listing, part.sizes) for part in made))),
    )
