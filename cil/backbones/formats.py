"""Reads weight files in several formats: safetensors, torch, TorchScript and Google's npz."""

import argparse
import math
import warnings
import zipfile
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from cil.backbones.weights import SUFFIXES
from cil.common.errors import UserError
from cil.common.files import refusing

WRAPPERS = ("model", "state_dict", "teacher", "model_state_dict", "model_ema")  # keys under which checkpoints hold weights
PREFIXES = ("module.", "model.", "teacher.", "backbone.", "encoder.")  # of names, from wrappers around the network
POSITIONS = (("pos_embed", ""), ("visual.trunk.pos_embed", "visual.trunk"), ("visual.positional_embedding", "visual"))
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # other entries of OpenAI's files


def read(file: Path) -> dict:
    """Return the tensors of a safetensors, torch or TorchScript file. Pickled code is never run."""
    with refusing(_torn(file)):
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals([argparse.Namespace]):  # many checkpoints hold their arguments
            state = _scripted(file) if _is_script(file) else torch.load(file, map_location="cpu", weights_only=True)
    while isinstance(state, dict) and (inner := [state[key] for key in WRAPPERS if isinstance(state.get(key), dict)]):
        state = inner[0]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _torn(file)
    return state


def fill(module, file: Path, weights: str) -> str | None:
    """Load a file into `module`, strictly, and return how its position embeddings were changed, if they were.

    A classifier in the file is ignored if `module` has none. `weights` is the name that the user typed, for error messages.
    """
    if file.suffix == ".npz":
        _fill_npz(module, file, weights)
        return None
    own = module.state_dict().keys()
    state = _unwrapped(read(file), own)
    for classifier in ("head.", "fc.", "classifier.", "head_dist.", "head.fc."):
        if not any(key.startswith(classifier) for key in own):
            state = {key: value for key, value in state.items() if not key.startswith(classifier)}
    state.pop("mask_token", None)  # DINOv2's, of its training
    state, note = resized(state, module)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise _unfit(weights, problem) from None
    return note


def resized(state: dict[str, Tensor], module: nn.Module) -> tuple[dict[str, Tensor], str | None]:
    """Return `state` with one position embedding for each patch of `module`, and what was done, in words.

    `module` is a model of timm or open_clip. If the positions fit already, or if this is no matter of the image size, `state`
    is returned as it is, and None.
    """
    own = dict(module.named_parameters())
    for name, place in POSITIONS:
        if name not in own or name not in state or state[name].shape == own[name].shape:
            continue
        if own[name].dim() == 2:  # open_clip's own transformer, with one class token
            first, new = 1, list(module.get_submodule(place).grid_size)  # type: ignore[arg-type]
        elif hasattr(trunk := module.get_submodule(place), "num_prefix_tokens"):
            first, new = 0 if trunk.no_embed_class else trunk.num_prefix_tokens, list(trunk.patch_embed.grid_size)
        else:
            continue
        found = state[name].float().view(1, -1, state[name].shape[-1])
        old = math.isqrt(found.shape[1] - first)
        if old**2 != found.shape[1] - first or found.shape[2] != own[name].shape[-1]:
            continue  # the weights of another network, which loading refuses
        sampled = resample_abs_pos_embed(found, new_size=new, num_prefix_tokens=first).view(own[name].shape)
        return state | {name: sampled}, f"resampled from {old}×{old} to {new[0]}×{new[1]} patches"
    return state, None


def _unwrapped(state: dict, own: Collection[str]) -> dict:
    """Remove prefixes that the module's `own` names do not have; names without such a prefix are not of the network."""
    for prefix in PREFIXES * 2:
        if any(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in own):
            state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state


def _is_script(file: Path) -> bool:
    """Whether the file is a TorchScript archive: only those have a table of constants."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())


def _scripted(file: Path) -> dict:
    """Return the tensors of OpenAI's CLIP, a scripted module in half precision with open_clip's parameter names."""
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
