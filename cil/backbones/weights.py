"""Where weights come from: a file shipped with the project, a hub repository, or any file of the user's."""

import hashlib
from pathlib import Path

from cil.mistakes import Mistake

SHIPPED = Path(__file__).resolve().parent.parent / "weights"


def locate(weights: str, sha256: str | None) -> tuple[Path, str]:
    """The file behind a name and its sha256; refused when `sha256` is given and differs.

    `shipped:vit_tiny.safetensors` lies in cil/weights, `hub:owner/name/file` is asked of the hub (its local cache first),
    anything else is a path.
    """
    kind, _, name = weights.partition(":")
    if kind == "shipped":
        file = SHIPPED / name
    elif kind == "hub":
        file = _from_hub(name)
    else:
        file = Path(weights).expanduser()
    if not file.is_file():
        raise Mistake(f"weights {weights} are not there (looked for {file}); type backbone.weights=FILE, or "
                      "backbone.weights=null for an untrained network")  # fmt: skip
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if sha256 is not None and found != sha256:
        raise Mistake(f"weights {weights} have sha256 {found[:12]}…, the configuration asks for {sha256[:12]}…; "
                      "type backbone.sha256=null to use them all the same")  # fmt: skip
    return file, found


def _from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # what it would say is said below

    owner, repository, file = name.split("/", 2)
    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        raise Mistake(
            f"weights hub:{name} are not on this machine and the hub cannot be reached; fetch {file} of {owner}/{repository} "
            "where there is a network and type backbone.weights=FILE"
        ) from None


def read(file: Path) -> dict:
    """Tensors of a safetensors or torch file; pickled code is never run."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError):
        raise Mistake(
            f"weights {file} are no whole file of tensors; type backbone.weights=FILE (.safetensors or .pt)"
        ) from None


def load(module, weights: str | None, sha256: str | None) -> dict:
    """Fill `module` from `weights`; returns their identity for the run's record."""
    if weights is None:
        return {"weights": "untrained", "sha256": None}
    file, found = locate(weights, sha256)
    state = read(file)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise Mistake(f"weights {weights} do not fit this backbone: {problem[:160]}") from None
    return {"weights": weights, "sha256": found}
