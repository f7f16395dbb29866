"""Any model of open_clip that has images and text: CLIP itself, SigLIP, EVA-CLIP, MobileCLIP and others."""

import logging
from collections.abc import Iterator, Sequence

import open_clip
import timm
import torch
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn

from cil.backbones.base import NORMS, image_spec
from cil.backbones.clip import CLIP, Trunk, TwoTowers, like_openai
from cil.backbones.tokens import FileTokenizer, tokenizer_of
from cil.backbones.weights import load
from cil.common.errors import UserError, nearest
from cil.common.ranges import Count
from cil.data.transforms.views import ImageSpec
from cil.modules.together import joined

TOGETHER = 256  # texts in one forward pass


class Towers(open_clip.CustomTextCLIP):
    """open_clip's model of an image and a text encoder. It also loads files of the older form, without `text.` in the names."""

    def load_state_dict(self, state: dict, strict: bool = True, assign: bool = False):
        return super().load_state_dict(convert_to_custom_text_state_dict(state), strict=strict, assign=assign)


class OpenCLIP(TwoTowers):
    """A model of open_clip as a backbone. The feature of an image is its embedding, not normalised.

    The bias that SigLIP adds to its logits is the same for all classes: no softmax and no prediction depends on it.
    """

    def __init__(self, trunk: Towers, image: ImageSpec, width: int) -> None:
        super().__init__(trunk, image, width)
        self._cached: dict[tuple[tuple[str, ...], torch.device], Tensor] = {}  # token ids of class names
        self.words: open_clip.SimpleTokenizer | FileTokenizer | UserError = UserError("no tokenizer")

    def forward(self, images: Tensor) -> Tensor:
        return joined(lambda images: self.passes(seen, self, images), images)

    # --- text ---------------------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> "open_clip.SimpleTokenizer | FileTokenizer":
        if isinstance(self.words, UserError):
            raise self.words
        return self.words

    @property
    def text(self) -> TextTransformer:
        return self.trunk.text

    def text_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the text encoder and the logit scale, but not the token embedding."""
        yield self.trunk.logit_scale
        yield from (p for name, p in self.text.named_parameters() if not name.startswith("token_embedding."))

    @property
    def text_width(self) -> int:
        return self.text.token_embedding.embedding_dim

    def embed(self, word: str) -> Tensor:
        """Return the token embeddings of a word, (tokens, text width), without position embeddings."""
        device = self.text.positional_embedding.device
        return self.text.token_embedding(torch.tensor(self.tokenizer.encode(word), device=device))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        ids = self.tokenizer(list(texts)).to(self.text.positional_embedding.device)
        return torch.cat([self.trunk.encode_text(part) for part in ids.split(TOGETHER)])

    def encode_contexts(self, contexts: Tensor, names: Sequence[str]) -> Tensor:
        """Encode "context name." for each context and class name: (sets, length, text width) → (sets, names, width).

        The context stands behind the start token, if there is one, and shifts the name; padding fills the rest. The attention
        of many of these encoders looks both ways, so every pair is a sequence of its own. The results are not normalised.
        """
        text, length = self.text, contexts.shape[1]
        ids = self._ids(tuple(f"{name}." for name in names), contexts.device)
        first = self._first
        kept = torch.cat([ids[:, :first], ids[:, first : ids.shape[1] - length]], 1)
        words = text.token_embedding(kept)
        placed = torch.cat([ids[:, :first], ids.new_zeros(len(ids), length), kept[:, first:]], 1)  # for its end token

        def each(contexts: Tensor) -> Tensor:
            return torch.stack([self._after(context, ids, words, placed) for context in contexts])

        return joined(each, contexts)

    @torch.inference_mode(False)
    def _ids(self, texts: tuple[str, ...], device: torch.device) -> Tensor:
        if (texts, device) not in self._cached:
            self._cached[texts, device] = self.tokenizer(list(texts)).to(device)
        return self._cached[texts, device]

    def _after(self, context: Tensor, ids: Tensor, words: Tensor, placed: Tensor) -> Tensor:
        text, first = self.text, self._first
        x = torch.cat([words[:, :first], context.expand(len(ids), -1, -1), words[:, first:]], 1)
        x = text.ln_final(text.transformer(x + text.positional_embedding, attn_mask=text.attn_mask))
        x = text_global_pool(x, placed, text.pool_type, eos_token_id=text.eos_id)
        project = text.text_projection
        return project(x) if isinstance(project, nn.Linear) else x if project is None else x @ project


class OpenCLIPWithTokens(OpenCLIP):
    """One whose image encoder is a plain transformer of timm, such as SigLIP's, and takes image prompts."""

    @property
    def image_width(self) -> int:
        """The width of a token of the image encoder."""
        return self.trunk.visual.trunk.embed_dim

    def tokens(self, images: Tensor) -> Tensor:
        """Return the patches with position embeddings, after a class token if there is one: (batch, tokens, image width)."""
        vit = self.trunk.visual.trunk
        return vit._pos_embed(vit.patch_embed(images))

    def forward(self, images: Tensor, *, prompts: Tensor | None = None) -> Tensor:
        """Return the features. `prompts` (batch or 1, length, image width) stand before the patches, without positions."""
        if prompts is None:
            return super().forward(images)
        return joined(lambda images, prompts: self.passes(prompted, self, images, prompts=prompts), images, prompts)


def seen(backbone: OpenCLIP, images: Tensor) -> Tensor:
    return backbone.trunk.encode_image(images)


def prompted(backbone: OpenCLIPWithTokens, images: Tensor, prompts: Tensor) -> Tensor:
    visual, x = backbone.trunk.visual, backbone.tokens(images)
    vit, first = visual.trunk, visual.trunk.num_prefix_tokens
    x = torch.cat([x[:, :first], prompts.to(x.dtype).expand(len(x), -1, -1), x[:, first:]], 1)
    return visual.head(vit.forward_head(vit.norm(vit.blocks(vit.norm_pre(x)))))


def open_clip_model(
    *, name: str | None, pretrained: str | None, weights: str | None, sha256: str | None, size: Count | None,
    norm: str | dict, tokenizer: str | None, changes: dict, root: str | None = None,
) -> CLIP | OpenCLIP:  # fmt: skip
    """Build a model of open_clip by its name, as in `ViT-B-16-SigLIP`. `pretrained` is the tag of its weights, as in `webli`.

    `weights: open_clip` takes those of the tag from the hub or its cache; a file, a `hub:` address or null (untrained) work
    too. `size` in pixels and `norm` default to those of the tag. A transformer at another size gets resampled position
    embeddings. `tokenizer`: a folder with the files of the model's own tokenizer; null: searched. `changes`: further
    arguments of the model, also in part of vision_cfg and text_cfg.
    """
    if name is None:
        raise UserError("backbone=open_clip needs a model; type backbone.name=ViT-B-16-SigLIP backbone.pretrained=webli")
    if name not in open_clip.list_models():
        raise UserError(f"backbone.name={name} is not a model of open_clip; {nearest(name, open_clip.list_models())}")
    config = merged(open_clip.get_model_config(name), changes)
    if "hf_model_name" in config["text_cfg"] or "multimodal_cfg" in config:
        kind = "is CoCa, with a decoder" if "multimodal_cfg" in config else "has a text encoder of the package transformers"
        raise UserError(f"backbone.name={name} {kind}, which this project does not run; type backbone.name=ViT-B-16-SigLIP, or "
                        "another model of open_clip")  # fmt: skip
    tag = tagged(name, pretrained, weights)
    mean, std = (tag["mean"], tag["std"]) if tag else NORMS["clip"]
    spec = image_spec({"size": size or config["vision_cfg"]["image_size"], "norm": norm}, {"mean": mean, "std": std})
    if weights == "open_clip":
        repo, _, file = tag["hf_hub"].rpartition("/")
        weights = f"hub:{repo}/{file or 'open_clip_model.safetensors'}"
    backbone = built(config, spec, tokenizer)
    backbone.identity = load(backbone.trunk, weights, sha256, root)
    if isinstance(backbone, OpenCLIP):
        try:
            backbone.words = tokenizer_of(name, config["text_cfg"], tokenizer, weights, root)
        except UserError as missing:  # image features do not need it
            if tokenizer is not None:
                raise
            backbone.words = missing
        backbone.identity |= {"tokenizer": words.sha256} if isinstance(words := backbone.words, FileTokenizer) else {}
    return backbone


def built(config: dict, spec: ImageSpec, tokenizer: str | None) -> CLIP | OpenCLIP:
    """Build the untrained model: `CLIP` if it is as OpenAI's, since that takes the most."""
    logging.getLogger().setLevel(logging.WARNING)  # open_clip logs the building of the model on the root logger
    config = {**config, "vision_cfg": {**config["vision_cfg"], "image_size": spec.size}}
    custom = config.pop("custom_text", False) or tokenizer is not None or config["text_cfg"].get("hf_tokenizer_name")
    if not custom and "timm_model_name" not in config["vision_cfg"] and like_openai(trunk := Trunk(**config)):
        return CLIP(trunk, spec)
    towers = Towers(**config)
    visual = towers.visual
    if not isinstance(visual, TimmModel):
        return OpenCLIP(towers, spec, config["embed_dim"])
    visual.set_input_size(spec.size)
    vit = type(visual.trunk) is timm.models.VisionTransformer and visual.trunk.pos_embed is not None
    return (OpenCLIPWithTokens if vit else OpenCLIP)(towers, spec, config["embed_dim"])


def merged(config: dict, changes: dict) -> dict:
    parts = {key: {**config.get(key, {}), **changes[key]} for key in ("vision_cfg", "text_cfg") if key in changes}
    return {**config, **changes, **parts}


def tagged(name: str, pretrained: str | None, weights: str | None) -> dict:
    """Return what open_clip knows of the weights with the tag `pretrained`; without a tag, of the first ones of this name."""
    tags = list_pretrained_tags_by_model(name)
    if pretrained is None and weights != "open_clip":
        return get_pretrained_cfg(name, tags[0]) if tags else {}
    if pretrained not in tags:
        choices = ", ".join(f"backbone.pretrained={tag}" for tag in tags) or "another backbone.name"
        raise UserError(f"backbone.name={name} has no weights with the tag {pretrained}; type {choices}, or "
                        "backbone.weights=null for an untrained network")  # fmt: skip
    found = get_pretrained_cfg(name, pretrained)
    if found.get("quick_gelu") and not open_clip.get_model_config(name).get("quick_gelu"):
        raise UserError(f"backbone.pretrained={pretrained} was trained with the quick GELU, which backbone.name={name} lacks; "
                        f"type backbone.name={name}-quickgelu")  # fmt: skip
    return found
