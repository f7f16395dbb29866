"""Records what determines a result: data, weights and transforms; hardware, settings and package versions."""

import platform
import resource
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cil.common.places import CHECKOUT
from cil.common.plugins import identities
from cil.data.scenario import Scenario

PACKAGES = ("torch", "torchvision", "timm", "open_clip_torch", "numpy", "pillow", "hydra-core", "omegaconf")

MORE = ("weights_tag", "weights_expect", "weights_positions", "tokenizer")  # of weights that have them


def of_inputs(backbone: torch.nn.Module, scenario: Scenario) -> dict[str, str]:
    """Identify weights, data and transforms; these must be the same when a run resumes from a checkpoint."""
    train, test = scenario.views
    return {
        "weights": backbone.identity["weights"],
        "weights_sha256": str(backbone.identity["sha256"]),
        **{key: backbone.identity[key] for key in MORE if key in backbone.identity},
        "data_digest": scenario.images.digest,
        "order_digest": scenario.order_digest(),
        "split_digest": scenario.split_digest(),
        "train_transform": train.words(),
        "test_transform": test.words(),
    }


def of_machine(
    device: torch.device, precision: str, processes: int = 1, *, tf32: bool = False, compiled: bool = False
) -> dict[str, object]:
    """Describe hardware, precision and package versions, which may change the last bits of a result."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "precision": precision,
        **({"tf32": tf32} if device.type == "cuda" else {}),
        **({"compile": True} if compiled else {}),
        "threads": torch.get_num_threads(),
        **({"processes": processes} if processes > 1 else {}),
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
        "git_commit": git_commit(),
        **({"plugins": used} if (used := identities()) else {}),
    }


def peak_memory_mib(device: torch.device) -> dict[str, int]:
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device) // 2**20
    return peak


def git_commit() -> str:
    """The git commit of this checkout, followed by a plus if tracked files differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    if CHECKOUT is None:  # an enclosing repository is not ours
        return f"version {_version('cil')}"
    try:
        return git("rev-parse", "HEAD")[:12] + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
