"""What torch answers about the GPU that is not there (tests/gpu/pretend_cuda.py)."""

from contextlib import nullcontext

import torch


class _Stream:
    """Streams and events of a device that does everything at once."""

    def __init__(self, *_, **__) -> None:
        pass

    def wait_stream(self, *_) -> None:
        pass

    wait_event = record = synchronize = wait_stream

    def record_event(self, *_) -> "_Stream":
        return self


def pretended() -> dict[str, object]:
    """What torch answers while the device is pretended, by the name under `torch`."""
    none, stream = (lambda *_, **__: None), _Stream()
    return {
        "_C._InferenceMode": lambda mode: torch.no_grad() if mode else torch.enable_grad(),
        "optim.Optimizer._accelerator_graph_capture_health_check": none,
        "cuda._lazy_init": none,
        "cuda.is_available": lambda: True,
        "cuda.is_initialized": lambda: True,
        "cuda.device_count": lambda: 1,
        "cuda.current_device": lambda: 0,
        "cuda.set_device": none,
        "cuda.synchronize": none,
        "cuda.manual_seed_all": none,
        "cuda.get_device_name": lambda *_: "pretended GPU",
        "cuda.get_device_capability": lambda *_: (9, 0),
        "cuda.is_bf16_supported": lambda *_, **__: True,
        "cuda.max_memory_allocated": lambda *_: 0,
        "cuda.reset_peak_memory_stats": none,
        "cuda.Stream": _Stream,
        "cuda.Event": _Stream,
        "cuda.stream": lambda *_: nullcontext(),
        "cuda.current_stream": lambda *_: stream,
    }
