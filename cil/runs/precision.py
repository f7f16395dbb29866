"""How a run computes: `machine.precision` and `machine.tf32`, decided where they say `auto`, before torch is imported.

What was decided stands in the run's configuration, so that its address is the same wherever it is read.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cil.common.errors import UserError

if TYPE_CHECKING:
    import torch

DRIVERS = (
    "/dev/nvidiactl",
    "/dev/dxg",
    "/dev/kfd",
    "/dev/nvgpu",
)  # a GPU has one; without any torch is not asked
TENSOR_CORES = (8, 0)  # the first compute capability with TF32 and bf16
PROCESSOR = Path("/proc/cpuinfo")


def settled(config: dict) -> dict:
    """The configuration with every `auto` decided, and without the settings that then do nothing.

    `machine.device=cuda` means a GPU with TF32 and bf16 where none can be seen, so that a login node and a node with a GPU
    give a run the same address.
    """
    machine, train = dict(config["machine"]), dict(config["train"])
    if "auto" in (machine["precision"], machine.get("tf32")):
        capability = capability_of(machine["device"])
        if machine["precision"] == "auto":
            faster = bf16_on_cpu() if capability is None else capability >= TENSOR_CORES
            machine["precision"] = "bf16" if faster else "fp32"
        if machine.get("tf32") == "auto":
            machine["tf32"] = "on" if capability is not None and capability >= TENSOR_CORES else "off"
    for node, key, nothing in ((machine, "tf32", "off"), (machine, "compile", "off"), (train, "accumulate", 1)):
        if node.get(key) == nothing:
            del node[key]
    return {**config, "machine": machine, "train": train}


def capability_of(device: str) -> tuple[int, int] | None:
    """Of the GPU that a run with this `machine.device` would have; None: it would have the CPU."""
    if device == "cpu" or (device == "auto" and "torch" not in sys.modules and not any(Path(d).exists() for d in DRIVERS)):
        return None
    import torch

    if torch.cuda.is_available():
        return tuple(torch.cuda.get_device_capability(None if device in ("auto", "cuda") else device))
    return None if device == "auto" else TENSOR_CORES


def bf16_on_cpu() -> bool:
    """Whether this processor multiplies bf16 numbers itself; one that does not is several times slower with them."""
    words = set(PROCESSOR.read_text().split()) if PROCESSOR.is_file() else set()
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def use(device: "torch.device", precision: str, tf32: bool) -> list[str]:
    """Set what torch keeps for the whole process, and say what the user should know."""
    import torch

    if device.type != "cuda" and tf32:
        raise UserError(f"machine.tf32=on, but this run is on the {device.type}, which has none; type machine.tf32=auto")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    if device.type == "cpu" and precision == "bf16" and not bf16_on_cpu():
        return ["machine.precision=bf16: this CPU has no bf16 instructions, so that bf16 is several times slower than fp32; "
                "type machine.precision=fp32 (or auto)"]  # fmt: skip
    return []
