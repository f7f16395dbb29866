"""Weights by name: where they are looked for, what their digest must be, what they expect to see."""

import hashlib
import re

import numpy as np
import open_clip
import pytest
import timm

from cil.backbones.base import NORMS, image_spec
from cil.backbones.registry import ambiguous, entries, pin_of
from cil.commands.fetch_weights import main
from cil.common.errors import UserError
from tests.backbones.test_formats import assert_filled, body, build, google, put, vit  # noqa: F401
from tests.data.test_download import files  # noqa: F401  (a fixture)
from tests.harness import compose, options

LICENCES = {"apache-2.0", "mit"}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No network, and a hub's cache that is empty."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


def test_places_of_a_mirror(vit, tmp_path):  # noqa: F811
    """<name>/<file>, then <owner>/<repository>/<file>, then the original release's own name."""
    other = {key: value + 1 for key, value in body(vit).items()}
    put(tmp_path / "timm" / "vit_base_patch16_224.sam_in1k" / "model.safetensors", other)
    np.savez(tmp_path / "ViT-B_16.npz", **google(vit))  # of which weights? two have files of this name
    assert_filled(build("vit_b16_sam", tmp_path), other)
    put(tmp_path / "vit_b16_sam" / "model.safetensors", body(vit))
    assert_filled(build("vit_b16_sam", tmp_path), body(vit))
    assert entries()["vit_b16_in21k"].found_in(tmp_path) is None
    (tmp_path / "dino_vitbase16_pretrain.pth").touch()
    assert entries()["vit_b16_dino"].found_in(tmp_path) == (tmp_path / "dino_vitbase16_pretrain.pth", None)


def test_the_hubs_cache_is_read_and_checked(vit, tmp_path):  # noqa: F811
    repo = tmp_path / "cache" / "models--timm--vit_base_patch16_224.sam_in1k"
    digest = put(repo / "blob.safetensors", body(vit))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("c" * 40)
    (repo / "blobs").mkdir()
    (repo / "snapshots" / ("c" * 40)).mkdir(parents=True)
    (repo / "blob.safetensors").rename(repo / "blobs" / digest)
    link = repo / "snapshots" / ("c" * 40) / "model.safetensors"
    link.symlink_to(repo / "blobs" / digest)
    assert build("vit_b16_sam", tmp_path / "root").identity["sha256"] == digest
    (repo / "blobs" / digest).rename(repo / "blobs" / ("0" * 64))  # as if the file had changed under its name
    link.unlink()
    link.symlink_to(repo / "blobs" / ("0" * 64))
    with pytest.raises(UserError, match="the hub has 000000000000…"):
        build("vit_b16_sam", tmp_path / "root")


def test_offline_it_says_what_to_type(tmp_path):
    with pytest.raises(UserError) as told:
        build("vit_b16_in21k", tmp_path)
    line = str(told.value)
    assert "HF_HUB_OFFLINE is set; type make weights NAME=vit_b16_in21k" in line and "backbone.weights=FILE" in line
    assert "\n" not in line


def test_weights_that_a_command_makes(told, tmp_path):
    """Where they are absent, a run and `make weights` name the command; a file in their place is found."""
    command = "type python scripts/recover.py --objective crops "
    with pytest.raises(UserError) as refused:
        build("vit_s14_photographs_selfsup", tmp_path)
    assert command in str(refused.value) and str(tmp_path / "vit_s14_photographs_selfsup") in str(refused.value)
    code, _, err = told("vit_s14_photographs_selfsup")
    assert code == 2 and command in err and err.count("\n") == 1
    put(tmp_path / "vit_s14_photographs_selfsup" / "model.safetensors", {})
    assert entries()["vit_s14_photographs_selfsup"].found_in(tmp_path)[0].is_file()


def test_which_digest_decides(vit, tmp_path):  # noqa: F811
    file = tmp_path / "vit_b16_in21k" / "model.safetensors"
    digest = put(file, body(vit))
    with pytest.raises(UserError, match=rf"sha256 {digest[:12]}…, the registry has 1cf14745201d…; .*backbone.sha256={digest}"):
        build("vit_b16_in21k", tmp_path)
    assert build("vit_b16_in21k", tmp_path, sha256=digest).identity == {
        "weights": "vit_b16_in21k",
        "sha256": digest,
        "weights_tag": "vit_base_patch16_224.orig_in21k",
        "weights_expect": "mean 0.5 std 0.5",
        "weights_licence": "apache-2.0",
    }
    with pytest.raises(UserError, match="the configuration asks for 000000000000…"):
        build("vit_b16_in21k", tmp_path, sha256="0" * 64)


def test_a_pin_is_kept_to(vit, tmp_path):  # noqa: F811
    file = tmp_path / "vit_b16_sam" / "model.safetensors"
    digest = put(file, body(vit))
    pin_of(file).write_text(f"{digest}  {file.name}\n")
    assert build("vit_b16_sam", tmp_path).identity["sha256"] == digest
    put(file, {key: value + 1 for key, value in body(vit).items()})
    with pytest.raises(UserError, match=rf"model.safetensors.sha256 has {digest[:12]}…"):
        build("vit_b16_sam", tmp_path)


def test_names_that_are_none(tmp_path):
    cases = {
        "vit_b16_in21": "neither a registered name nor a file; did you mean vit_b16_in21k?",
        "vit_base_patch16_224.sam_in1k": "registered by another name; type backbone.weights=vit_b16_sam",
        "nowhere/w.pt": "are not there",
        "w.pt": "are not there",
        "hub:timm/alone": "name no file; type backbone.weights=hub:OWNER/REPOSITORY/FILE",
    }
    for weights, words in cases.items():
        with pytest.raises(UserError, match=re.escape(words)):
            build("vit_b16_sam", tmp_path, weights=weights)
    with pytest.raises(UserError) as told:
        build("vit_b16_sam", tmp_path, weights="vit_base_patch16_224")
    for name in ("vit_b16_augreg_in21k_ft_in1k (timm", "vit_b16_augreg2_in21k_ft_in1k (timm", "vit_b16_in21k (the prompt"):
        assert name in str(told.value)


def test_inputs_by_name(vit, tmp_path):  # noqa: F811
    put(tmp_path / "vit_b16_dino" / "model.safetensors", body(vit))
    digest = hashlib.sha256((tmp_path / "vit_b16_dino" / "model.safetensors").read_bytes()).hexdigest()
    image = {"size": 32, "norm": "expected"}
    assert build("vit_b16_dino", tmp_path, sha256=digest, image=image).image.mean == NORMS["imagenet"][0]
    with pytest.raises(UserError, match=r"norm=expected needs weights of the registry"):
        build("vit_b16_dino", tmp_path, weights=None, image=image)
    own = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}
    assert image_spec({"size": 32, "norm": own}, None).mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    "node",
    [
        {"size": 32, "norm": "units"},
        {"size": 32, "norm": None},
        {"size": 32},
        {"size": "32", "norm": "unit"},
        {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
        {"size": 32, "norm": {"mean": [0.5] * 3, "std": [0.5, 0, 0.5]}},
        {"size": 32, "norm": {"mean": [0.5] * 2, "std": [0.5] * 3}},
    ],
)
def test_inputs_that_are_none(node):
    with pytest.raises(UserError, match=r"^backbone\.image[^\n]*type|did you mean unit|choose from"):
        image_spec(node, None)


def test_the_registry_agrees_with_the_libraries():
    for name, entry in entries().items():
        mean, std = tuple(entry.expects["mean"]), tuple(entry.expects["std"])
        if entry.made:
            told = timm.get_pretrained_cfg(entry.tag.partition(".")[0])
            assert (told.mean, told.std, told.license) == (mean, std, entry.licence), name
        elif entry.library == "timm":
            told = timm.get_pretrained_cfg(entry.tag)
            assert (told.mean, told.std, told.license) == (mean, std, entry.licence), name
            assert f"{told.hf_hub_id}" in (f"{entry.repo}", f"timm/{entry.tag}"), name
            assert not told.url or told.url in [original.url for original in entry.also], name
        elif name == "siglip_b16":
            told = open_clip.get_pretrained_cfg(entry.tag, compose("backbone=siglip_b16")["backbone"]["pretrained"])
            assert (told["mean"], told["std"], told["hf_hub"].rstrip("/")) == (mean, std, entry.repo)
            assert open_clip.get_model_config(entry.tag)["text_cfg"]["hf_tokenizer_name"] == entry.repo
        else:
            told = open_clip.get_pretrained_cfg(entry.tag.removesuffix("-quickgelu"), "openai")
            assert (told["mean"], told["std"], told["quick_gelu"]) == (mean, std, True), name
            assert told["hf_hub"].rstrip("/") == entry.repo and told["url"] == entry.also[0].url, name
            assert entry.also[0].sha256 in told["url"] and open_clip.get_model_config(entry.tag)["quick_gelu"], name
        assert entry.licence in LICENCES and entry.source.strip()


def test_every_backbone_is_of_the_registry():
    """By its own name where it has weights, and with the switch that its rows were published with."""
    nodes = {name: compose(f"backbone={name}")["backbone"] for name in options("backbone")}
    registered = {name for name, node in nodes.items() if node["weights"] in entries()}
    assert registered == set(entries())
    for name, node in nodes.items():
        if name in registered:
            norm = (
                "imagenet"
                if entries()[name].made or name.startswith("dinov2")
                else "clip"
                if name.startswith("clip")
                else "unit"
            )
            assert node["weights"] == name
            assert node["image"]["norm"] == norm if "image" in node else node["norm"] == "expected"
        else:
            assert node["weights"] in (None, "timm", "open_clip") or node["weights"].startswith("shipped:"), name
    assert set(ambiguous("vit_base_patch16_224")) <= registered


SAM = "/timm/vit_base_patch16_224.sam_in1k/resolve/main/model.safetensors"


@pytest.fixture
def told(capsys, tmp_path):
    """Arguments of scripts/fetch_weights.py → exit code, standard output, standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        code = main([*words, "--root", str(tmp_path / "root")])
        return code, *capsys.readouterr()

    return call


def test_fetching_pins_and_a_second_call_verifies(files, told, tmp_path, vit):  # noqa: F811
    digest = put(tmp_path / "w.safetensors", body(vit))
    files.bodies[SAM] = (tmp_path / "w.safetensors").read_bytes()
    code, out, _ = told("vit_b16_sam", "--from", files.url)
    assert code == 0 and f"sha256 {digest} (pinned" in out
    file = tmp_path / "root" / "vit_b16_sam" / "model.safetensors"
    assert pin_of(file).read_text() == f"{digest}  model.safetensors\n"
    files.asked.clear()
    code, out, _ = told("vit_b16_sam", "--from", files.url)
    assert code == 0 and "there already, verified" in out and not files.asked
    assert build("vit_b16_sam", tmp_path / "root").identity["sha256"] == digest
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    code, out, err = told("vit_b16_sam", "--from", files.url)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and f"has {digest[:12]}…" in err


def test_what_the_hub_says_of_a_file_is_compared(files, told, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv("HF_ENDPOINT", files.url)
    files.bodies[SAM], files.etags = b"something else", False
    files.headers[SAM] = {"X-Linked-ETag": f'"{"1" * 64}"'}
    code, _, err = told("vit_b16_sam")
    assert code == 2 and "wanted is 111111111111…" in err
    files.headers[SAM] = {"X-Linked-ETag": f'"{hashlib.sha256(files.bodies[SAM]).hexdigest()}"'}
    code, out, _ = told("vit_b16_sam")
    assert code == 0 and "(verified)" in out


def test_what_the_registry_says_is_compared(files, told, tmp_path):  # noqa: F811
    files.bodies["/timm/vit_base_patch16_224.orig_in21k/resolve/main/model.safetensors"] = b"something else"
    code, _, err = told("vit_b16_in21k", "--from", files.url)
    assert code == 2 and "wanted is 1cf14745201d…" in err
    assert not [file for file in (tmp_path / "root").rglob("*") if file.is_file()]


def test_a_folder_is_a_mirror(told, tmp_path, vit):  # noqa: F811
    digest = put(tmp_path / "mirror" / "timm" / "vit_base_patch16_224.sam_in1k" / "model.safetensors", body(vit))
    code, out, _ = told("vit_b16_sam", "--from", str(tmp_path / "mirror"))
    assert code == 0 and digest in out
    code, _, err = told("vit_b16_dino", "--from", str(tmp_path / "mirror"))
    assert code == 2 and "has no weights vit_b16_dino" in err and err.count("\n") == 1


def test_the_tokenizer_comes_beside_the_weights(told, tmp_path):
    mirror, root = tmp_path / "mirror" / "timm" / "ViT-B-16-SigLIP", tmp_path / "root" / "siglip_b16"
    mirror.mkdir(parents=True)
    for name in ("open_clip_model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (mirror / name).write_text(name)
    for _ in range(2):
        assert told("siglip_b16", "--from", str(tmp_path / "mirror"))[0] == 0
        assert {file.name for file in root.glob("*.json")} == {"tokenizer.json", "tokenizer_config.json"}
        (root / "tokenizer.json").unlink()  # also when the weights are there already


def test_lines_for_what_cannot_be(told):
    for words, line in {
        (): "error: which weights? type make weights NAME=vit_b16_in21k",
        ("vit_b16_in21",): "error: weights vit_b16_in21 are not registered; did you mean vit_b16_in21k?",
        (
            "vit_b16_sam",
            "--from",
            "http://127.0.0.1:9",
        ): "error: http://127.0.0.1:9/timm/vit_base_patch16_224.sam_in1k/resolve/",
    }.items():
        code, _, err = told(*words)
        assert code == 2 and err.splitlines()[-1].startswith(line)


def test_the_list_fits_a_terminal(told, tmp_path):
    (tmp_path / "root" / "vit_b16_dino").mkdir(parents=True)
    (tmp_path / "root" / "vit_b16_dino" / "model.safetensors").touch()
    code, out, _ = told("--list")
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    assert all(name in out for name in entries()) and "vit_b16_dino/model.safetensors" in out
    assert re.search(r"vit_b16_sam +half +apache-2.0 +not pinned", out)
