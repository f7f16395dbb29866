"""Numerical precision: resolves `auto` in `machine.precision` and `machine.tf32`, if possible without importing torch.

The resolved values are stored in the run's configuration, so that its address is the same on every machine.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cil.common.errors import UserError

if TYPE_CHECKING:
    import torch

DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/nvgpu")  # if none exists, there is no GPU to ask torch about
TENSOR_CORES = (8, 0)  # the lowest compute capability that supports TF32 and bf16
PROCESSOR = Path("/proc/cpuinfo")


def settled(config: dict) -> dict:
    """Return the configuration with every `auto` resolved and with settings that have no effect removed.

    If `machine.device=cuda` is set but no GPU is visible, a GPU with TF32 and bf16 is assumed. A login node and a GPU node
    then give a run the same address.
    """
    machine, train = dict(config["machine"]), dict(config["train"])
    if "auto" in (machine["precision"], machine.get("tf32")):
        capability = capability_of(machine["device"])
        if machine["precision"] == "auto":
            faster = bf16_on_cpu() if capability is None else capability >= TENSOR_CORES
            machine["precision"] = "bf16" if faster else "fp32"
        if machine.get("tf32") == "auto":
            machine["tf32"] = "on" if capability is not None and capability >= TENSOR_CORES else "off"
    without_effect = ((machine, "tf32", "off"), (machine, "compile", "off"), (machine, "stack", None), (train, "accumulate", 1))
    for node, key, nothing in without_effect:
        if key in node and node[key] == nothing:
            del node[key]
    return {**config, "machine": machine, "train": train}


def capability_of(device: str) -> tuple[int, int] | None:
    """The compute capability of the GPU that `machine.device` selects, or None if it selects the CPU."""
    if device == "cpu" or (device == "auto" and "torch" not in sys.modules and not any(Path(d).exists() for d in DRIVERS)):
        return None
    import torch

    if torch.cuda.is_available():
        return tuple(torch.cuda.get_device_capability(None if device in ("auto", "cuda") else device))
    return None if device == "auto" else TENSOR_CORES


def bf16_on_cpu() -> bool:
    """Whether this CPU has bf16 instructions. Without them bf16 is several times slower than fp32."""
    words = set(PROCESSOR.read_text().split()) if PROCESSOR.is_file() else set()
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def use(device: "torch.device", precision: str, tf32: bool) -> list[str]:
    """Set torch's global TF32 flags; returns notes for the user."""
    import torch

    if device.type != "cuda" and tf32:
        raise UserError(f"machine.tf32=on, but this run is on the {device.type}, which has no TF32; type machine.tf32=auto")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    if device.type == "cpu" and precision == "bf16" and not bf16_on_cpu():
        return ["machine.precision=bf16: this CPU has no bf16 instructions, so that bf16 is several times slower than fp32; "
                "type machine.precision=fp32 (or auto)"]  # fmt: skip
    return []


def in_half(part: "torch.nn.Module") -> None:
    """Convert frozen linear and convolution weights to bf16 once instead of in every pass; norm layers stay as they are."""
    import torch

    for module in part.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.to(torch.bfloat16)
