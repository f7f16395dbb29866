"""Tokenizers of text encoders: CLIP's own, which open_clip brings along, or a model's, read from its files."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from open_clip.tokenizer import SimpleTokenizer, get_clean_fn
from torch import Tensor

from cil.backbones.registry import entries
from cil.backbones.weights import from_hub, in_cache
from cil.common.errors import UserError
from cil.common.files import refusing

FILES = ("tokenizer.json", "tokenizer_config.json")


class FileTokenizer:
    """Turns texts into token ids by a tokenizer.json, as open_clip does with the package transformers."""

    def __init__(self, folder: Path, length: int, clean: Callable[[str], str]) -> None:
        """`length`: tokens of a text, with padding. `clean` prepares a text."""
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise UserError(
                "this backbone's tokenizer needs the package tokenizers; type pip install 'cil[tokenizers]'"
            ) from None
        with refusing(UserError(f"{folder} has no whole tokenizer; fetch {' and '.join(FILES)} again")):
            content = [(folder / file).read_text() for file in FILES]
            self._plain, self._padded = (Tokenizer.from_str(content[0]) for _ in range(2))
            pad = json.loads(content[1])["pad_token"]
        pad = pad["content"] if isinstance(pad, dict) else pad
        self._plain.no_truncation()
        self._plain.no_padding()
        self._padded.enable_truncation(length)
        self._padded.enable_padding(length=length, pad_id=self._padded.token_to_id(pad), pad_token=pad)
        self._clean, self.sha256 = clean, hashlib.sha256("".join(content).encode()).hexdigest()
        self.first = self(["a"])[0].tolist().index(self.encode("a")[0])  # number of tokens before a text

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the ids of texts, (texts, length), with special tokens and padding."""
        return torch.tensor([found.ids for found in self._padded.encode_batch([self._clean(text) for text in texts])])

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text without special tokens."""
        return self._plain.encode(self._clean(text), add_special_tokens=False).ids


def tokenizer_of(
    name: str, text: dict, folder: str | None, weights: str | None, root: str | None
) -> SimpleTokenizer | FileTokenizer:
    """Return the tokenizer for the settings `text` (text_cfg) of the open_clip model `name`.

    The files of a model's own tokenizer are in `folder`, beside its registered weights, in the hub's cache or on the hub.
    """
    given = dict(text.get("tokenizer_kwargs") or {})
    repo, length = text.get("hf_tokenizer_name"), text.get("context_length", 77)
    if folder is None and not repo:
        return SimpleTokenizer(context_length=length, **given)
    clean = get_clean_fn(given.pop("clean", "whitespace"))
    if given or text.get("tokenizer_mode"):
        how = ", ".join(given) or text["tokenizer_mode"]
        raise UserError(f"backbone.name={name} prepares tokens in a way ({how}) that this project does not know; type a method "
                        "of image features, or backbone.name=ViT-B-16-SigLIP")  # fmt: skip
    return FileTokenizer(_found(name, repo, folder, weights, root), length, clean)


def _found(name: str, repo: str | None, folder: str | None, weights: str | None, root: str | None) -> Path:
    """Return the folder that holds FILES."""
    if folder is not None:
        places = [Path(folder).expanduser()]
    else:
        below = [weights, repo] if weights in entries() else [repo]
        places = [Path(root).expanduser() / str(part) for part in below] if root else []
        cached = in_cache(str(repo), FILES[0])
        places += [cached.parent] if cached else []
    for place in places:
        if all((place / file).is_file() for file in FILES):
            return place
    if folder is not None:
        raise UserError(f"backbone.tokenizer={folder} is not a folder with {' and '.join(FILES)}")
    try:
        fetched = [from_hub(str(repo), file, f"hub:{repo}/{file}") for file in FILES]
    except UserError:
        raise UserError(f"backbone.name={name} has its own tokenizer, which is not on this machine, and the hub cannot be "
                        f"reached; fetch {' and '.join(FILES)} of {repo} where there is a network and type "
                        "backbone.tokenizer=FOLDER")  from None  # fmt: skip
    return fetched[0].parent
