"""Optimizers that torch does not have under one name."""

from collections.abc import Iterable, Sequence

import torch


def adamw_matrices(
    params: Iterable, *, lr: float, betas: Sequence[float], weight_decay: float, fused: bool
) -> torch.optim.AdamW:  # fmt: skip
    """AdamW whose decay spares biases, the scales of norms and whatever else is a vector (timm's rule; DyTox, LPA)."""
    entries = list(params)
    plain = [entry for entry in entries if not isinstance(entry, dict)]
    groups = []
    for entry in [{"params": plain}, *(entry for entry in entries if isinstance(entry, dict))]:
        listed = list(entry["params"])
        for own, more in ((lambda p: p.dim() > 1, {}), (lambda p: p.dim() <= 1, {"weight_decay": 0.0})):
            if chosen := list(filter(own, listed)):
                groups.append({**entry, "params": chosen, **more})
    return torch.optim.AdamW(groups, lr=lr, betas=tuple(betas), weight_decay=weight_decay, fused=fused)
