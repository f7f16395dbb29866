"""CLIP from open_clip: an image encoder and a text encoder with a joint embedding space."""

import logging
from collections.abc import Iterator, Sequence

import open_clip
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from cil.backbones.base import Backbone, image_spec
from cil.backbones.compiled import plainly
from cil.backbones.packed_text import encode
from cil.backbones.weights import expects, load
from cil.common.errors import UserError, nearest
from cil.common.ranges import Count, fits
from cil.common.transfer import sent
from cil.data.transforms.views import ImageSpec
from cil.modules.together import joined

PLAIN = {"embed_dim": Count, "quick_gelu": bool}  # the keys of `changes` that open_clip does not check itself
ROWS, IDS = "token_embedding.rows", "token_embedding.ids"  # a shipped file holds only the rows of tokens seen in pre-training


class Trunk(open_clip.CLIP):
    """open_clip's CLIP. It also loads files with only some rows of the token embedding; all other rows get their mean."""

    def load_state_dict(self, state: dict, strict: bool = True, assign: bool = False):
        if IDS in state:
            state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
            ids, rows = state.pop(IDS).long(), state.pop(ROWS)
            state["token_embedding.weight"] = rows.mean(0).repeat(self.vocab_size, 1).index_copy(0, ids, rows)
        return super().load_state_dict(state, strict=strict, assign=assign)


class TwoTowers(Backbone):
    """A model of open_clip with an image encoder and a text encoder."""

    def __init__(self, trunk: nn.Module, image: ImageSpec, width: int) -> None:
        super().__init__(image, width)
        self.trunk, self.passes = trunk, plainly

    def bare(self, images: Tensor) -> Tensor:
        return self.trunk.encode_image(images)

    @property
    def image_tower(self) -> nn.Module:
        return self.trunk.visual

    def image_parameters(self) -> Iterator[nn.Parameter]:
        return self.image_tower.parameters()

    @property
    def logit_scale(self) -> Tensor:
        return self.trunk.logit_scale.exp()

    def context(self, count: int, length: int, phrase: str | None) -> Tensor:
        """Return initial contexts, (count, length, text width): N(0, 0.02²) noise around the tokens of `phrase`, repeated."""
        noise = 0.02 * torch.randn(count, length, self.text_width)  # on the CPU, so that a seed gives the same numbers on a GPU
        noise = noise.to(self.trunk.logit_scale.device)
        if phrase is None:
            return noise
        if not phrase.strip():
            raise UserError("method.phrase is empty; type method.phrase='a photo of a', or method.phrase=null")
        words = self.embed(phrase).detach()
        return noise + words[torch.arange(length) % len(words)]

    @property
    def _first(self) -> int:
        """The number of tokens before a text."""
        return getattr(self.tokenizer, "first", 1)  # a `FileTokenizer` knows it

    def room_for(self, names: Sequence[str], length: int) -> None:
        """Raise an error if a name does not fit after a context of `length` tokens."""
        first, most = self._first, self.trunk.context_length
        longest, name = max((len(self.tokenizer.encode(f"{name}.")) + 1, name) for name in names)  # with the end-of-text token
        if first + length + longest <= most:
            return
        if length == 0:
            raise UserError(f"the text {name!r} has {first + longest} tokens, the text encoder takes {most}; shorten the name "
                            "(dataset.names=FILE) or the template")  # fmt: skip
        raise UserError(f"a context of {length} tokens and the class name {name!r} of {longest} make "
                        f"{first + length + longest}, the text tower takes {most}; shorten the context")  # fmt: skip


class CLIP(TwoTowers):
    """CLIP as a backbone. The feature of an image is its projection into the joint space, not normalised."""

    def __init__(self, trunk: Trunk, image: ImageSpec) -> None:
        super().__init__(trunk, image, trunk.text_projection.shape[1])
        self.tokenizer = open_clip.SimpleTokenizer(context_length=trunk.context_length)
        self._ids: dict[tuple[str, torch.device], Tensor] = {}  # cached token ids of words
        self._names: dict[str, list[int]] = {}  # cached token ids of class names

    def forward(self, images: Tensor, *, prompts: Tensor | None = None, project: bool = True) -> Tensor:
        """Return the features, (batch, width), of images or of the output of `tokens`.

        `prompts` (batch or 1, length, width of the image encoder) are inserted between the class token and the patches,
        without position embeddings and before the first norm (as in PGP's CLIP). `project`: whether `bridge` is applied.
        """
        more = {} if project else {"project": False}
        return joined(lambda images, prompts: self.passes(through, self, images, prompts=prompts, **more), images, prompts)

    @property
    def bridge(self) -> Tensor:
        """The projection of the image encoder into the joint space, (width, width of the image encoder)."""
        return self.trunk.visual.proj.T

    def tokens(self, images: Tensor) -> Tensor:
        """Return the class token and patches with position embeddings, (batch, 1 + patches, width of the image encoder)."""
        tower = self.trunk.visual
        patches = tower.conv1(images).flatten(2).transpose(1, 2)
        first = tower.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        return torch.cat([first, patches], 1) + tower.positional_embedding.to(patches.dtype)

    def text_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the text encoder and the logit scale, but not the token embedding."""
        trunk = self.trunk
        yield from (trunk.positional_embedding, trunk.text_projection, trunk.logit_scale)
        yield from (*trunk.transformer.parameters(), *trunk.ln_final.parameters())

    @property
    def text_width(self) -> int:
        return self.trunk.token_embedding.embedding_dim

    @property
    def image_width(self) -> int:
        """The width of a token of the image encoder."""
        return len(self.trunk.visual.class_embedding)

    def embed(self, word: str) -> Tensor:
        """Return the token embeddings of a word, (tokens, text width), without position embeddings."""
        device = self.trunk.text_projection.device
        if (word, device) not in self._ids:
            self._ids[word, device] = torch.tensor(self.tokenizer.encode(word), device=device)
        return self.trunk.token_embedding(self._ids[word, device])

    @property
    def cam_layer(self) -> nn.Module:
        return self.trunk.visual.transformer.resblocks[-1].ln_1

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Encode texts: (texts, width). The encoder is causal, so nothing after the last end-of-text token is computed."""
        tokens = self.tokenizer(list(texts))
        trunk, ends = self.trunk, tokens.argmax(1)
        length, device = int(ends.max()) + 1, trunk.text_projection.device
        tokens, ends = sent(tokens[:, :length], device), sent(ends, device)
        x = trunk.token_embedding(tokens) + trunk.positional_embedding[:length]
        x = trunk.ln_final(trunk.transformer(x, attn_mask=trunk.attn_mask[:length, :length]))
        return x[torch.arange(len(x), device=x.device), ends] @ trunk.text_projection

    def encode_contexts(self, contexts: Tensor, names: Sequence[str]) -> Tensor:
        """Encode "context name." for each context and class name: (sets, length, text width) → (sets, names, width).

        The results are not normalised.
        """
        tokens = self._tokens(names)
        return joined(lambda contexts: encode(self.trunk, contexts, self.tokenizer.sot_token_id, tokens), contexts)

    def _tokens(self, names: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each name, with a full stop and the end-of-text token."""
        for name in set(names) - self._names.keys():
            self._names[name] = [*self.tokenizer.encode(f"{name}."), self.tokenizer.eot_token_id]
        return [self._names[name] for name in names]


def through(backbone: CLIP, images: Tensor, prompts: Tensor | None, project: bool = True) -> Tensor:
    """Run the image encoder; the arguments are those of `CLIP.forward`."""
    if prompts is None and images.dim() == 4 and project:
        return backbone.trunk.encode_image(images)
    tower, x = backbone.trunk.visual, backbone.tokens(images) if images.dim() == 4 else images
    if prompts is not None:
        x = torch.cat([x[:, :1], prompts.to(x.dtype).expand(len(x), -1, -1), x[:, 1:]], 1)
    seen = tower.ln_post(tower.transformer(tower.ln_pre(x))[:, 0])
    return seen @ tower.proj if project else seen


def like_openai(trunk: Trunk) -> bool:
    """Whether CLIP's own forward passes compute everything that open_clip's compute."""
    visual = trunk.visual
    return (
        isinstance(visual, VisionTransformer)
        and (visual.pool_type, visual.attn_pool, visual.final_ln_after_pool) == ("tok", None, False)
        and not isinstance(visual.ln_pre, nn.Identity)
        and (trunk.text_pool_type, trunk.attn_mask is not None) == ("argmax", True)
        and isinstance(trunk.text_projection, nn.Parameter)
    )


def clip(
    *, architecture: str | None, weights: str | None, sha256: str | None, image: dict, changes: dict, root: str | None = None
) -> CLIP:
    """Build CLIP. `architecture` is an open_clip name, or null if `changes` define a whole model.

    A whole model has embed_dim, vision_cfg and text_cfg. `root` is a folder with local copies of the registered weights.
    """
    spec = image_spec(image, expects(weights))
    for key in PLAIN.keys() & changes.keys():
        fits(f"backbone.changes.{key}", changes[key], PLAIN[key])
    if architecture is not None and architecture not in open_clip.list_models():
        raise UserError(f"backbone.architecture={architecture} is not a model of open_clip; "
                        f"{nearest(architecture, open_clip.list_models())}")  # fmt: skip
    # OpenAI's weights need the name with -quickgelu; without it the activation is wrong.
    config = {**(open_clip.get_model_config(architecture) if architecture else {}), **changes}
    logging.getLogger().setLevel(logging.WARNING)  # open_clip logs the building of the model on the root logger
    config["vision_cfg"] = {**config["vision_cfg"], "image_size": spec.size}
    if config.get("custom_text") or not like_openai(trunk := Trunk(**config)):
        raise UserError(f"backbone.architecture={architecture} is not a CLIP like OpenAI's; type backbone=open_clip "
                        f"backbone.name={architecture}")  # fmt: skip
    backbone = CLIP(trunk, spec)
    backbone.identity = load(trunk, weights, sha256, root)
    return backbone
