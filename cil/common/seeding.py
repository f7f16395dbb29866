"""Seeds named by their purpose, so that a resumed run draws the same random numbers as an uninterrupted one."""

import hashlib
import random

import numpy as np
import torch


def stream(seed: int, *words: int | str) -> int:
    """Return a 63-bit seed for one purpose, for example stream(0, "order", task, phase, epoch)."""
    return int.from_bytes(hashlib.sha256(repr((seed, *words)).encode()).digest()[:8], "little") >> 1


def generator(seed: int, *words: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(stream(seed, *words))


def seed_everything(seed: int, *words: int | str) -> None:
    """Seed the global generators of Python, NumPy and PyTorch, which dropout and weight initialization use."""
    value = stream(seed, *words)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():  # torch.manual_seed would record a traceback at every call, which takes 0.5 ms
        torch.cuda.manual_seed_all(value)
