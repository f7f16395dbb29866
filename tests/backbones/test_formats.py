"""Every format that weights come in fills a backbone wholly or is refused."""

import hashlib

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from cil.common.errors import UserError
from cil.engine.build import make
from tests.harness import compose

SIZE = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
TOWERS = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture
def vit():
    """A tiny ViT with a classifier, its every number its own."""
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_224", img_size=32, num_classes=5, **SIZE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def build(name: str, root, **changed) -> torch.nn.Module:
    """The backbone of conf/backbone/<name>.yaml, tiny."""
    node = compose(f"backbone={name}")["backbone"]
    tiny = {"architecture": None, "changes": TOWERS} if name.startswith("clip") else {"changes": SIZE}
    return make({**node, **tiny, "image": {"size": 32, "norm": "unit"}, **changed}, "backbone", root=str(root))


def put(file, state: dict) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def body(model) -> dict:
    return {key: value.clone() for key, value in model.state_dict().items() if not key.startswith("head.")}


def assert_filled(backbone, state: dict) -> None:
    own = backbone.trunk.state_dict()
    assert own.keys() == state.keys()
    for key, value in state.items():
        torch.testing.assert_close(own[key], value, rtol=0, atol=0)


def google(model) -> dict[str, np.ndarray]:
    """timm's parameters in the layout of Google's files."""
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    width, heads = SIZE["embed_dim"], SIZE["num_heads"]
    out = {
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
        "pre_logits/kernel": np.zeros((width, width), np.float32),
    }
    for i in range(SIZE["depth"]):
        ours, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        attention = theirs + "MultiHeadDotProductAttention_1/"
        for k, name in enumerate(("query", "key", "value")):
            rows = slice(k * width, (k + 1) * width)
            kernel = state[ours + "attn.qkv.weight"][rows].T
            out[f"{attention}{name}/kernel"] = kernel.reshape(width, heads, -1)
            out[f"{attention}{name}/bias"] = state[ours + "attn.qkv.bias"][rows].reshape(heads, -1)
        out[f"{attention}out/kernel"] = state[ours + "attn.proj.weight"].T.reshape(heads, -1, width)
        out[f"{attention}out/bias"] = state[ours + "attn.proj.bias"]
        for norm, number in (("norm1", 0), ("norm2", 2)):
            out[f"{theirs}LayerNorm_{number}/scale"] = state[f"{ours}{norm}.weight"]
            out[f"{theirs}LayerNorm_{number}/bias"] = state[f"{ours}{norm}.bias"]
        for layer in (0, 1):
            out[f"{theirs}MlpBlock_3/Dense_{layer}/kernel"] = state[f"{ours}mlp.fc{layer + 1}.weight"].T
            out[f"{theirs}MlpBlock_3/Dense_{layer}/bias"] = state[f"{ours}mlp.fc{layer + 1}.bias"]
    return out


class Script(torch.nn.Module):
    """As OpenAI's files are: open_clip's names in a tree of modules, and three numbers beside them."""

    def __init__(self, state: dict) -> None:
        super().__init__()
        for key, value in state.items():
            *path, leaf = key.split(".")
            module = self
            for word in path:
                if word not in dict(module.named_children()):
                    module.add_module(word, torch.nn.Module())
                module = getattr(module, word)
            module.register_parameter(leaf, torch.nn.Parameter(value.half(), requires_grad=False))
        for name, value in (("input_resolution", 224), ("context_length", 77), ("vocab_size", 49408)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_google_npz_sets_every_parameter(vit, tmp_path):
    (tmp_path / "vit_b16_sam").mkdir()
    np.savez(tmp_path / "vit_b16_sam" / "ViT-B_16.npz", **google(vit))
    backbone = build("vit_b16_sam", tmp_path)
    assert_filled(backbone, body(vit))
    assert backbone.identity["weights_tag"] == "vit_base_patch16_224.sam_in1k"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"depth": 1}, r"without its head the file holds \d+ numbers, the backbone \d+"),  # the last block unused
        ({"patch_size": 16}, r"without its head the file holds"),  # the patches resized
    ],
)
def test_google_npz_is_taken_strictly(vit, tmp_path, changes, problem):
    np.savez(tmp_path / "w.npz", **google(vit))
    with pytest.raises(UserError, match=f"do not fit this backbone: {problem}"):
        build("vit_b16_sam", "", weights=str(tmp_path / "w.npz"), changes=SIZE | changes)


@pytest.mark.parametrize("spoil", [lambda a: a.pop("cls"), lambda a: a.update(cls=np.full((1, 1, 32), np.nan, np.float32))])
def test_google_npz_leaves_nothing_unset(vit, tmp_path, spoil):
    arrays = google(vit)
    spoil(arrays)
    arrays["stray"] = np.zeros(32 if "cls" not in arrays else 0, np.float32)  # the count alone does not tell
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(UserError, match=r"do not fit this backbone: .*cls"):
        build("vit_b16_sam", "", weights=str(tmp_path / "w.npz"))


def test_google_npz_is_no_clip(vit, tmp_path):
    np.savez(tmp_path / "w.npz", **google(vit))
    with pytest.raises(UserError, match=r"an .npz file holds a vision transformer; type backbone=vit_b16_in21k"):
        build("clip_vit_b16", "", weights=str(tmp_path / "w.npz"))


def test_dino_is_a_plain_state(vit, tmp_path):
    put(tmp_path / "vit_b16_dino" / "dino_vitbase16_pretrain.pth", body(vit))
    assert_filled(build("vit_b16_dino", tmp_path), body(vit))


def test_a_classifier_is_left_out_and_nothing_else(vit, tmp_path):
    put(tmp_path / "vit_b16_sam" / "model.safetensors", vit.state_dict())
    assert_filled(build("vit_b16_sam", tmp_path), body(vit))
    put(tmp_path / "vit_b16_sam" / "model.safetensors", {**vit.state_dict(), "fc_norm.weight": torch.ones(32)})
    with pytest.raises(UserError, match=r"do not fit this backbone: .*fc_norm"):
        build("vit_b16_sam", tmp_path)
    state = vit.state_dict()
    state.pop("norm.bias")
    put(tmp_path / "vit_b16_sam" / "model.safetensors", state)
    with pytest.raises(UserError, match=r"do not fit this backbone: .*norm.bias"):
        build("vit_b16_sam", tmp_path)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch.jit is on its way out
def test_openai_script(tmp_path):
    torch.manual_seed(0)
    state = open_clip.CLIP(**TOWERS).state_dict()
    torch.jit.save(torch.jit.script(Script(state)), tmp_path / "ViT-B-16.pt")
    digest = hashlib.sha256((tmp_path / "ViT-B-16.pt").read_bytes()).hexdigest()
    with pytest.raises(UserError, match="the registry has 5806e77cd80f…"):
        build("clip_vit_b16", tmp_path)
    backbone = build("clip_vit_b16", tmp_path, sha256=digest)
    assert_filled(backbone, {key: value.half().float() for key, value in state.items()})
    assert all(value.dtype is torch.float32 for value in backbone.parameters())
    assert backbone.identity["weights_licence"] == "mit"


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.npz", "w.pth"])
@pytest.mark.parametrize("kind", ["torn", "text", "empty"])
def test_torn_files(vit, tmp_path, name, kind):
    file = tmp_path / name
    if name.endswith("npz"):
        np.savez(file, **google(vit))
    else:
        put(file, vit.state_dict())
    content = {"torn": file.read_bytes()[:-5000], "text": b"version https://git-lfs\n" * 9, "empty": b""}[kind]
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"are no whole file of tensors; type backbone.weights=FILE"):
        build("vit_b16_sam", "", weights=str(file))


def test_a_file_of_other_things_is_refused(tmp_path):
    torch.save({"model": {"a": [1.0]}, "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="are no whole file of tensors"):
        build("vit_b16_sam", "", weights=str(tmp_path / "w.pt"))
