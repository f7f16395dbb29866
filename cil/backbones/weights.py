"""Finds and loads weights: a registered name, a file shipped with the project, a hub repository, or any file."""

import errno
import hashlib
import os
import re
from pathlib import Path

from cil.backbones.registry import SHIPPED, ambiguous, entries, pinned
from cil.common.errors import UserError, nearest

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".npz")  # of files of weights


def load(module, weights: str | None, sha256: str | None, root: str | None) -> dict:
    """Load `weights` into `module` and return their identity for the run's record."""
    if weights is None:
        return {"weights": "untrained", "sha256": None}
    from cil.backbones.formats import fill  # imports torch and timm

    file, found = locate(weights, sha256, root)
    positions = fill(module, file, weights)
    identity = {"weights": weights, "sha256": found} | ({"weights_positions": positions} if positions else {})
    if entry := entries().get(weights):
        identity |= {"weights_tag": entry.tag, "weights_expect": entry.expectation, "weights_licence": entry.licence}
    return identity


def expects(weights: str | None) -> dict | None:
    """Return the normalisation with which registered weights were trained; None for other weights."""
    entry = entries().get(weights or "")
    return entry.expects if entry else None


def locate(weights: str, sha256: str | None, root: str | None) -> tuple[Path, str]:
    """Return the file of the weights and its sha256, which must match the known one.

    A name in cil/weights/registry.yaml is searched below `root`, in the hub's cache and on the hub.
    `shipped:vit_tiny.safetensors` is in cil/weights. `hub:owner/name/file` comes from the hub (its cache first). Anything
    else is a path. The file is compared with `sha256`; if that is None, with the registry, the first download or the hub.
    """
    kind, _, name = weights.partition(":")
    known = None
    if entry := entries().get(weights):
        if root is not None and (here := entry.found_in(Path(root).expanduser())):
            file, known = here
        elif entry.repo:
            file, known = from_hub(entry.repo, entry.file, weights), entry.sha256
        else:
            raise entry.absent(root)
    elif kind == "shipped":
        file = SHIPPED / name
    elif kind == "hub":
        file = from_hub(*_split(name), weights)
    else:
        file = _path(weights)
    if not file.is_file():
        raise _absent(weights, file)
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    _compare(weights, file, found, sha256, known)
    return file, found


def at_hand(weights: str | None, root: str | None) -> Path | None:
    """Return the file of a name or path if it is on this machine. Nothing is downloaded."""
    kind, _, name = str(weights).partition(":")
    if entry := entries().get(weights or ""):
        if root is not None and (here := entry.found_in(Path(root).expanduser())):
            return here[0]
        return in_cache(entry.repo, entry.file) if entry.repo else None
    if kind == "hub":
        return in_cache(*_split(name))
    file = SHIPPED / name if kind == "shipped" else Path(str(weights)).expanduser()
    return file if file.is_file() else None


def lacking(weights: str | None, root: str | None) -> UserError | None:
    """Return the error for weights that are neither on this machine nor on a hub that answers. Nothing is downloaded."""
    if weights is None or at_hand(weights, root):
        return None
    entry, (kind, _, name) = entries().get(weights), weights.partition(":")
    try:
        if entry and entry.repo is None:
            return entry.absent(root)
        if entry or kind == "hub":
            repo, file = (entry.repo, entry.file) if entry and entry.repo else _split(name)
            why = "HF_HUB_OFFLINE is set" if _offline() else "the hub cannot be reached"
            return None if _offered(repo, file) else _unreachable(repo, file, weights, why)
        return _absent(weights, SHIPPED / name if kind == "shipped" else _path(weights))
    except UserError as error:
        return error


def _offered(repo: str, file: str) -> bool:
    """Whether the hub answers for a file."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    if _offline():
        return False
    try:
        get_hf_file_metadata(hf_hub_url(repo, file), timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # of the library that it connects with, which differs between its versions
        return False
    return True


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def releases(weights: str | None) -> set[str | None]:
    """Return the sha256 of every file that belongs to a registered name."""
    entry = entries().get(weights or "")
    return {entry.sha256, *(original.sha256 for original in entry.also)} - {None} if entry else set()


def _compare(weights: str, file: Path, found: str, sha256: str | None, known: str | None) -> None:
    if sha256 is not None:
        if found != str(sha256).lower():
            raise UserError(f"weights {weights} have sha256 {found[:12]}…, the configuration asks for {str(sha256)[:12]}…; "
                            "type backbone.sha256=null to use them anyway")  # fmt: skip
        return
    blob = file.resolve().name  # the hub's cache calls a large file by its sha256
    reasons = {"the registry has": known, f"{file.name}.sha256 has": pinned(file),
               "the hub has": blob if re.fullmatch("[0-9a-f]{64}", blob) else None}  # fmt: skip
    for reason, wanted in reasons.items():
        if wanted is not None and found != wanted:
            raise UserError(f"weights {weights} ({file}) have sha256 {found[:12]}…, {reason} {wanted[:12]}…; remove the file "
                            f"and fetch it again, or type backbone.sha256={found} to use it anyway")  # fmt: skip
        if wanted is not None:
            return


def _path(weights: str) -> Path:
    """Return `weights` as a path, or raise an error if it looks like a misspelt registered name."""
    file = Path(weights).expanduser()
    if file.exists() or "/" in weights or file.suffix in SUFFIXES:
        return file
    if meanings := ambiguous(weights):
        choices = ", ".join(f"{name} ({who})" for name, who in meanings.items())
        raise UserError(
            f"weights {weights} is ambiguous: several files share this name; type backbone.weights= one of {choices}"
        )
    for entry in entries().values():
        if weights == entry.tag:
            raise UserError(f"weights {weights} are registered by another name; type backbone.weights={entry.name}")
    raise UserError(f"weights {weights} are neither a registered name nor a file; {nearest(weights, entries())}")


def _split(name: str) -> tuple[str, str]:
    words = name.split("/", 2)
    if len(words) != 3 or not all(words):
        raise UserError(f"weights hub:{name} name no file; type backbone.weights=hub:OWNER/REPOSITORY/FILE")
    return f"{words[0]}/{words[1]}", words[2]


def from_hub(repo: str, file: str, weights: str) -> Path:
    """Return a file from the hub. The local cache comes first, so that a cached file works without a network."""
    cached = in_cache(repo, file)
    if cached is not None:
        return cached
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    if _offline():
        raise _unreachable(repo, file, weights, "HF_HUB_OFFLINE is set")
    logging.set_verbosity_error()  # its errors are reported below
    try:
        return Path(hf_hub_download(repo, file))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise _unreachable(repo, file, weights, "the hub cannot be reached") from None


def in_cache(repo: str, file: str) -> Path | None:
    """Return the file in the hub's cache on this machine, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file)
    return Path(found) if isinstance(found, str) else None


def _absent(weights: str, file: Path) -> UserError:
    return UserError(f"weights {weights} are not there (looked for {file}); type backbone.weights=FILE, or "
                     "backbone.weights=null for an untrained network")  # fmt: skip


def _unreachable(repo: str, file: str, weights: str, why: str) -> UserError:
    if weights in entries():
        return UserError(f"weights {weights} are not on this machine and {why}; type make weights NAME={weights} where there "
                         "is a network and keep what it writes below data.weights, or backbone.weights=FILE")  # fmt: skip
    return UserError(f"weights {weights} are not on this machine and {why}; fetch {file} of {repo} where there is a network "
                     "and type backbone.weights=FILE")  # fmt: skip
