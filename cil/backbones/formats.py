"""Reads weight files in several formats: safetensors, torch, TorchScript and Google's npz."""

import math
import warnings
import zipfile
from pathlib import Path

from cil.common.errors import UserError
from cil.common.files import refusing

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".npz")
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # other entries of OpenAI's files


def read(file: Path) -> dict:
    """Return the tensors of a safetensors, torch or TorchScript file. Pickled code is never run."""
    import torch
    from safetensors.torch import load_file

    with refusing(_torn(file)):
        if file.suffix == ".safetensors":
            return load_file(file)
        state = _scripted(file) if _is_script(file) else torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise _torn(file)
    return state


def fill(module, file: Path, weights: str) -> None:
    """Load a file into `module`, strictly. A classifier (`head.`) in the file is ignored if `module` has none.

    `weights` is the name that the user typed; it is used in error messages.
    """
    if file.suffix == ".npz":
        return _fill_npz(module, file, weights)
    state = read(file)
    if not any(key.startswith("head.") for key in module.state_dict()):
        state = {key: value for key, value in state.items() if not key.startswith("head.")}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise _unfit(weights, problem) from None
    return None


def _is_script(file: Path) -> bool:
    """Whether the file is a TorchScript archive: only those have a table of constants."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())


def _scripted(file: Path) -> dict:
    """Return the tensors of OpenAI's CLIP, a scripted module in half precision with open_clip's parameter names."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch asks for files in a newer format; these are OpenAI's originals
        state = torch.jit.load(file, map_location="cpu").state_dict()
    return {
        key: value.float() if value.is_floating_point() else value for key, value in state.items() if key not in NOT_WEIGHTS
    }


def _fill_npz(module, file: Path, weights: str) -> None:
    """Load a file in Google's layout with timm's loader.

    That loader silently resizes patches and positions and silently skips blocks that the model lacks. Therefore the file must
    have as many values as the model, and every parameter must be set: they are filled with NaN first.
    """
    import torch

    if not hasattr(module, "load_pretrained"):
        raise _unfit(weights, "an .npz file holds a vision transformer; type backbone=vit_b16_in21k")
    held, wanted = _numbers_in(file), sum(parameter.numel() for parameter in module.parameters())
    if held != wanted:
        raise _unfit(weights, f"without its head the file holds {held} numbers, the backbone {wanted}")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(math.nan)
    try:
        module.load_pretrained(str(file))
    except (KeyError, ValueError, RuntimeError) as error:
        raise _unfit(weights, " ".join(str(error).split())) from None
    for name, parameter in module.named_parameters():
        if torch.isnan(parameter).any():
            raise _unfit(weights, f"the file has no values for {name}")


def _numbers_in(file: Path) -> int:
    """Return the number of values in an .npz file, without its head."""
    import numpy

    with refusing(_torn(file)), numpy.load(file, allow_pickle=False) as arrays:
        return sum(arrays[key].size for key in arrays.files if not {"head", "pre_logits"} & set(key.split("/")))


def _torn(file: Path) -> UserError:
    return UserError(f"weights {file} are no whole file of tensors; type backbone.weights=FILE ({', '.join(SUFFIXES)})")


def _unfit(weights: str, problem: str) -> UserError:
    return UserError(f"weights {weights} do not fit this backbone: {problem[:160]}")
