"""Going on with pre-training on photographs: what is trained, what stays, and that a kill changes no bit."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from cil.backbones.formats import resized
from cil.backbones.vit import ViT
from cil.commands import recover as door
from cil.common.errors import UserError
from cil.data.transforms.views import View
from cil.engine.build import make
from cil.pretraining.recovery import Recipe, class_tokens, early, features, kept_tokens, nearest_class_mean, recover
from tests.data.datasets import miniature
from tests.harness import compose

CHANGES = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "init_values": 0.3}
COUNT = 260  # photographs: two files of tokens


def backbone() -> ViT:
    torch.manual_seed(5)
    node = compose("backbone=vit_tiny", "backbone.weights=null", "backbone.sha256=null")["backbone"] | {"changes": CHANGES}
    return make(node, "backbone").eval()


def photographs() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    labels = torch.arange(COUNT) % 4
    noise = torch.randint(0, 60, (COUNT, 32, 3, 32), generator=random)
    return (noise + 40 * labels[:, None, None, None]).to(torch.uint8), labels


def kept(folder, of: ViT, variants: int = 2, frozen: int = 1, seed: int = 0):
    view = View(of.image, "random_resized", flip=0.5, scale=(0.4, 1.0)) if variants > 1 else View(of.image)
    return kept_tokens(folder, of, photographs()[0], view, about="these", frozen=frozen, variants=variants, seed=seed,
                       say=lambda line: None)  # fmt: skip


def recipe(objective: str = "labels", **changes) -> Recipe:
    return Recipe(**{"objective": objective, "epochs": 3, "frozen": 1, "variants": 2, "batch_size": 60, **changes})


def test_tokens_are_those_of_the_frozen_blocks_and_kept(tmp_path):
    made = backbone()
    tokens = kept(tmp_path, made, variants=1)
    rows = torch.tensor([0, 255, 3])
    found = tokens.take(rows, torch.zeros(3, dtype=torch.long))
    wanted = early(made, View(made.image)(photographs()[0][rows]), 1)
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=2e-3)
    assert torch.allclose(features(made, tokens, 1), made(View(made.image)(photographs()[0])), atol=2e-3)
    assert class_tokens(tokens).shape == (COUNT, 24)
    files = sorted(tmp_path.rglob("*.npy"))
    times, second = [file.stat().st_mtime_ns for file in files], files[1].read_bytes()
    files[1].unlink()  # as if killed before it was written
    kept(tmp_path, made, variants=1)
    assert [file.stat().st_mtime_ns == time for file, time in zip(files, times, strict=True)] == [True, False]
    assert files[1].read_bytes() == second
    kept(tmp_path, made, variants=1, frozen=2)
    assert len(list(tmp_path.iterdir())) == 2, "other tokens lie in another folder"


def test_variants_of_a_photograph_differ_and_a_seed_says_which(tmp_path):
    made, rows = backbone(), torch.arange(5)
    tokens = kept(tmp_path / "one", made)
    one, other = (tokens.take(rows, torch.full((5,), v)) for v in (0, 1))
    assert (one - other).abs().amax((1, 2)).min() > 1e-3
    assert torch.equal(one, kept(tmp_path / "two", made).take(rows, torch.zeros(5, dtype=torch.long)))
    assert not torch.equal(one, kept(tmp_path / "two", made, seed=1).take(rows, torch.zeros(5, dtype=torch.long)))


@pytest.mark.parametrize("objective", ["labels", "crops"])
def test_a_killed_recovery_goes_on_to_the_same_bits(tmp_path, objective):
    whole, parts, (_, labels) = backbone(), [backbone() for _ in range(3)], photographs()
    start = {key: value.clone() for key, value in whole.trunk.state_dict().items()}
    tokens = kept(tmp_path, whole)
    recover(whole, tokens, labels, recipe(objective), tmp_path / "whole", "these", every=2)
    for stop, made in zip((3, 8, None), parts, strict=True):  # after a step that no checkpoint has, and after one that has
        torch.manual_seed(99)  # what another process would find
        recover(made, tokens, labels, recipe(objective), tmp_path / "parts", "these", every=2, stop_after=stop)
    for key, value in whole.trunk.state_dict().items():
        assert torch.equal(value, parts[2].trunk.state_dict()[key]), key
        still = key.startswith(("blocks.0.", "patch_embed", "pos_embed", "cls_token"))
        assert torch.equal(value, start[key]) == still, key
    files = [tmp_path / name / "log.jsonl" for name in ("whole", "parts")]
    logs = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    assert [line["step"] for line in logs[0]] == [2, 4, 6, 8, 10, 12]
    timeless = [[{k: v for k, v in line.items() if k != "seconds"} for line in lines] for lines in logs]
    assert timeless[0] == timeless[1]
    assert logs[0][-1]["loss"] < logs[0][0]["loss"]


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    made, (_, labels) = backbone(), photographs()
    tokens = kept(tmp_path, made)
    recover(made, tokens, labels, recipe(), tmp_path / "run", "these", every=1, stop_after=1)
    for changed, about in ((recipe(lr=0.1), "these"), (recipe(), "others")):
        with pytest.raises(UserError, match=r"belongs to another recipe or other photographs; type --name OTHER"):
            recover(made, tokens, labels, changed, tmp_path / "run", about)


def test_rates_fall_towards_the_image_and_matrices_alone_decay(tmp_path):
    from cil.pretraining.recovery import Labels, _groups

    groups = _groups(backbone(), Labels(24, 4), recipe(lr=1.0, layer_decay=0.5))
    assert sorted({group["peak"] for group in groups}) == [0.5, 1.0]
    assert all((group["weight_decay"] > 0) == (p.ndim > 1) for group in groups for p in group["params"])


def test_trained_blocks_begin_as_the_identity(tmp_path):
    made, (pixels, labels) = backbone(), photographs()
    tokens = kept(tmp_path, made)
    recover(made, tokens, labels, recipe(), tmp_path / "run", "these", stop_after=0)
    x = early(made, View(made.image)(pixels[:4]), 1)
    torch.testing.assert_close(made(View(made.image)(pixels[:4])), made.trunk.norm(x[:, 0]))
    other = backbone()
    recover(other, tokens, labels, recipe(begin="file"), tmp_path / "file", "these", stop_after=0)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), backbone().parameters(), strict=True))


def test_crops_compares_with_every_other_photograph():
    from cil.pretraining.recovery import Crops

    one, other, first, second = torch.randn(4, 5, 6)
    total = 0.0
    for given, frozen in ((one, second), (other, first)):
        targets = [f - frozen.mean(0) for f in frozen]
        for i in range(5):
            near = torch.stack([torch.cosine_similarity(given[i], t, 0) / 0.1 for t in targets])
            total -= float(near.log_softmax(0)[i]) / 10
    found = Crops(6, 2)([one, other], [first, second], torch.zeros(5))
    assert float(found) == pytest.approx(total, rel=1e-4)


def test_nearest_class_mean_counts():
    train = torch.tensor([[1.0, 0.1], [5.0, 0.0], [0.0, 1.0], [0.1, 2.0]])
    test, labels = torch.tensor([[9.0, 1.0], [1.0, 9.0], [9.0, 2.0]]), torch.tensor([0, 1, 1])
    assert nearest_class_mean(train, torch.tensor([0, 0, 1, 1]), test, labels) == 66.67


def test_positions_are_resampled_as_timm_does():
    from timm.models.vision_transformer import checkpoint_filter_fn

    small, large = (timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=size, depth=1) for size in (64, 160))
    torch.nn.init.normal_(large.pos_embed)
    state = {key: value.half() for key, value in large.state_dict().items()}
    wanted = checkpoint_filter_fn({key: value.float() for key, value in state.items()}, small)
    found, note = resized(state, small)
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted if key == "pos_embed")
    assert note == "resampled from 10×10 to 4×4 patches" and resized(state, large) == (state, None)


@pytest.fixture
def place(tmp_path):
    """A body for 112 px, and a folder with three classes of photographs."""
    torch.manual_seed(3)
    trunk = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=112)
    save_file({key: value.half() for key, value in trunk.state_dict().items()}, tmp_path / "body.safetensors")
    miniature.zipped(miniature.tinyimagenet(train=3), tmp_path / "tiny-imagenet-200.zip")
    return tmp_path


def test_the_command_makes_weights_that_a_run_finds(place):
    words = ["--body", place / "body.safetensors", "--root", place, "--per-class", 2, "--measure", 2, 2, "--epochs", 1,
             "--frozen", 11, "--batch-size", 2, "--out", place / "weights", "--objective", "crops"]  # fmt: skip
    assert door.main([*map(str, words)]) == 0
    folder = place / "weights" / "vit_s14_photographs_selfsup"
    record = json.loads((folder / "record.json").read_text())
    assert record["percent_on_the_unseen_half"].keys() == {"frozen_class_token", "body", "recovered"}
    node = compose("backbone=vit_s14_photographs_selfsup", f"backbone.sha256={record['weights_sha256']}")["backbone"]
    made = make(node, "backbone", root=str(place / "weights"))
    assert made.identity["sha256"] == record["weights_sha256"] and made.trunk.patch_embed.num_patches == 49
    body, stored = load_file(place / "body.safetensors"), load_file(folder / "model.safetensors")
    assert torch.equal(body["blocks.10.mlp.fc1.weight"], stored["blocks.10.mlp.fc1.weight"])
    assert not torch.equal(body["blocks.11.ls2.gamma"], stored["blocks.11.ls2.gamma"])


def test_what_the_command_refuses(place, capsys):
    words = ["--epochs", "1", "--body", str(place / "body.safetensors")]
    with pytest.raises(SystemExit):
        door.main([*words, "--frozen", "11", "--objective", "crops", "--variants", "1"])
    assert "--objective crops needs --variants 2 or more" in capsys.readouterr().err
    assert door.main([*words, "--frozen", "12", "--objective", "labels"]) == 2
    assert capsys.readouterr().err == "error: --frozen 12 leaves no block to train; type --frozen 11 or less\n"
