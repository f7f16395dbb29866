"""Optimizers that PyTorch does not provide."""

from collections.abc import Iterable, Sequence

import torch


def adamw_matrices(
    params: Iterable, *, lr: float, betas: Sequence[float], weight_decay: float, fused: bool
) -> torch.optim.AdamW:  # fmt: skip
    """AdamW with weight decay for matrices only: not for biases, norm scales and other vectors (as timm; DyTox, LPA)."""
    entries = list(params)
    plain = [entry for entry in entries if not isinstance(entry, dict)]
    groups = []
    for entry in [{"params": plain}, *(entry for entry in entries if isinstance(entry, dict))]:
        listed = list(entry["params"])
        for belongs, more in ((lambda p: p.dim() > 1, {}), (lambda p: p.dim() <= 1, {"weight_decay": 0.0})):
            if chosen := list(filter(belongs, listed)):
                groups.append({**entry, "params": chosen, **more})
    return torch.optim.AdamW(groups, lr=lr, betas=tuple(betas), weight_decay=weight_decay, fused=fused)
