"""Random streams named by what they are for, so that a resumed run draws what an uninterrupted one would have drawn."""

import hashlib
import random

import numpy as np
import torch


def stream(seed: int, *words: int | str) -> int:
    """A 63-bit seed for one purpose, as in stream(0, "order", task, phase, epoch)."""
    return int.from_bytes(hashlib.sha256(repr((seed, *words)).encode()).digest()[:8], "little") >> 1


def generator(seed: int, *words: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(stream(seed, *words))


def seed_everything(seed: int, *words: int | str) -> None:
    """Python's, numpy's and torch's global streams (dropout, initial weights)."""
    value = stream(seed, *words)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():  # torch.manual_seed notes a traceback for the others at every call: half a millisecond
        torch.cuda.manual_seed_all(value)
