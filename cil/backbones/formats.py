"""Files of weights, whatever they were written by: safetensors, torch, TorchScript, Google's npz."""

import math
import warnings
import zipfile
from pathlib import Path

from cil.common.errors import UserError
from cil.common.files import refusing

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".npz")
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # what OpenAI's files hold beside them


def read(file: Path) -> dict:
    """Tensors of a safetensors, torch or TorchScript file; pickled code is never run."""
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
    """Set every parameter of `module` from a file, strictly; a classifier in the file is left out where `module` has none.

    `weights` is what the user called the file.
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
    """Only TorchScript archives hold a table of constants."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())


def _scripted(file: Path) -> dict:
    """OpenAI's release of CLIP: a scripted module whose half-precision parameters have open_clip's names."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would have files written anew; these are as OpenAI left them
        state = torch.jit.load(file, map_location="cpu").state_dict()
    return {
        key: value.float() if value.is_floating_point() else value for key, value in state.items() if key not in NOT_WEIGHTS
    }


def _fill_npz(module, file: Path, weights: str) -> None:
    """Google's layout, by timm's own loader.

    That loader resizes patches and positions and passes over blocks that the model lacks, each without a word; so the file
    must hold as many numbers as the model, and none of the model's may stay unset.
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
            raise _unfit(weights, f"it leaves {name} unset")


def _numbers_in(file: Path) -> int:
    """How many an .npz file holds beside its head."""
    import numpy

    with refusing(_torn(file)), numpy.load(file, allow_pickle=False) as arrays:
        return sum(arrays[key].size for key in arrays.files if not {"head", "pre_logits"} & set(key.split("/")))


def _torn(file: Path) -> UserError:
    return UserError(f"weights {file} are no whole file of tensors; type backbone.weights=FILE ({', '.join(SUFFIXES)})")


def _unfit(weights: str, problem: str) -> UserError:
    return UserError(f"weights {weights} do not fit this backbone: {problem[:160]}")
