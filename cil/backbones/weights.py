"""Where weights come from: a registered name, a file shipped with the project, a hub repository, or any file."""

import errno
import hashlib
import os
import re
from pathlib import Path

from cil.backbones.formats import SUFFIXES, fill
from cil.backbones.registry import SHIPPED, Entry, ambiguous, entries, pinned
from cil.common.errors import UserError, nearest


def load(module, weights: str | None, sha256: str | None, root: str | None) -> dict:
    """Fill `module` from `weights`; returns their identity for the run's record."""
    if weights is None:
        return {"weights": "untrained", "sha256": None}
    file, found = locate(weights, sha256, root)
    fill(module, file, weights)
    identity = {"weights": weights, "sha256": found}
    if entry := entries().get(weights):
        identity |= {"weights_tag": entry.tag, "weights_expect": entry.expectation, "weights_licence": entry.licence}
    return identity


def expects(weights: str | None) -> dict | None:
    """The normalisation that registered weights were trained with; None for others."""
    entry = entries().get(weights)
    return entry.expects if entry else None


def locate(weights: str, sha256: str | None, root: str | None) -> tuple[Path, str]:
    """The file behind a name and its sha256, which must be the one known for it.

    A name of cil/weights/registry.yaml is looked for below `root`, in the hub's cache and at the hub;
    `shipped:vit_tiny.safetensors` lies in cil/weights, `hub:owner/name/file` is asked of the hub (its cache first),
    anything else is a path. `sha256` decides where it is given; otherwise what the registry says, what the first fetch
    pinned, what the hub calls the file by.
    """
    kind, _, name = weights.partition(":")
    known = None
    if weights in entries():
        file, known = _registered(entries()[weights], root)
    elif kind == "shipped":
        file = SHIPPED / name
    elif kind == "hub":
        file = _from_hub(*_split(name), weights)
    else:
        file = _path(weights)
    if not file.is_file():
        raise UserError(f"weights {weights} are not there (looked for {file}); type backbone.weights=FILE, or "
                        "backbone.weights=null for an untrained network")  # fmt: skip
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    _compare(weights, file, found, sha256, known)
    return file, found


def at_hand(weights: str | None, root: str | None) -> Path | None:
    """The file of a name or a path where it lies on this machine; nothing is fetched."""
    kind, _, name = str(weights).partition(":")
    if entry := entries().get(weights):
        if root is not None and (here := entry.found_in(Path(root).expanduser())):
            return here[0]
        return in_cache(entry.repo, entry.file) if entry.repo else None
    if kind == "hub":
        return in_cache(*_split(name))
    file = SHIPPED / name if kind == "shipped" else Path(str(weights)).expanduser()
    return file if file.is_file() else None


def releases(weights: str | None) -> set[str | None]:
    """The digests of all files that a registered name stands for."""
    entry = entries().get(weights)
    return {entry.sha256, *(original.sha256 for original in entry.also)} - {None} if entry else set()


def _compare(weights: str, file: Path, found: str, sha256: str | None, known: str | None) -> None:
    if sha256 is not None:
        if found != str(sha256).lower():
            raise UserError(f"weights {weights} have sha256 {found[:12]}…, the configuration asks for {str(sha256)[:12]}…; "
                            "type backbone.sha256=null to use them all the same")  # fmt: skip
        return
    blob = file.resolve().name  # the hub's cache calls a large file by its sha256
    reasons = {"the registry has": known, f"{file.name}.sha256 has": pinned(file),
               "the hub has": blob if re.fullmatch("[0-9a-f]{64}", blob) else None}  # fmt: skip
    for reason, wanted in reasons.items():
        if wanted is not None and found != wanted:
            raise UserError(f"weights {weights} ({file}) have sha256 {found[:12]}…, {reason} {wanted[:12]}…; remove the file "
                            f"and fetch it again, or type backbone.sha256={found} to use it all the same")  # fmt: skip
        if wanted is not None:
            return


def _registered(entry: Entry, root: str | None) -> tuple[Path, str | None]:
    """The file and the sha256 that the registry knows for it."""
    if root is not None and (here := entry.found_in(Path(root).expanduser())):
        return here
    if entry.made:
        raise entry.absent(root)
    return _from_hub(entry.repo, entry.file, entry.name), entry.sha256


def _path(weights: str) -> Path:
    """A path, unless it looks like a name that somebody thought to be registered."""
    file = Path(weights).expanduser()
    if file.exists() or "/" in weights or file.suffix in SUFFIXES:
        return file
    if meanings := ambiguous(weights):
        choices = ", ".join(f"{name} ({who})" for name, who in meanings.items())
        raise UserError(f"weights {weights} have been different files; type backbone.weights= one of {choices}")
    for entry in entries().values():
        if weights == entry.tag:
            raise UserError(f"weights {weights} are registered by another name; type backbone.weights={entry.name}")
    raise UserError(f"weights {weights} are neither a registered name nor a file; {nearest(weights, entries())}")


def _split(name: str) -> tuple[str, str]:
    words = name.split("/", 2)
    if len(words) != 3 or not all(words):
        raise UserError(f"weights hub:{name} name no file; type backbone.weights=hub:OWNER/REPOSITORY/FILE")
    return f"{words[0]}/{words[1]}", words[2]


def _from_hub(repo: str, file: str, weights: str) -> Path:
    """The hub's local cache first, so that a file that was there yesterday is there today."""
    cached = in_cache(repo, file)
    if cached is not None:
        return cached
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise _out_of_reach(repo, file, weights, "HF_HUB_OFFLINE is set")
    logging.set_verbosity_error()  # what it would say is said below
    try:
        return Path(hf_hub_download(repo, file))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise _out_of_reach(repo, file, weights, "the hub cannot be reached") from None


def in_cache(repo: str, file: str) -> Path | None:
    """The file in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file)
    return Path(found) if isinstance(found, str) else None


def _out_of_reach(repo: str, file: str, weights: str, why: str) -> UserError:
    if weights in entries():
        return UserError(f"weights {weights} are not on this machine and {why}; type make weights NAME={weights} where there "
                         "is a network and keep what it writes below data.weights, or backbone.weights=FILE")  # fmt: skip
    return UserError(f"weights {weights} are not on this machine and {why}; fetch {file} of {repo} where there is a network "
                     "and type backbone.weights=FILE")  # fmt: skip
