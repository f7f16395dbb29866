"""Pictures of prompts: the map against a spelled-out way through the last block, the files, and what is refused."""

import re
import subprocess

import pytest
import torch
import torch.nn.functional as F

from cil.commands import pictures
from cil.common.errors import UserError
from cil.engine.build import make
from cil.pictures.prompts import draw_usage, folded, grad_cam
from cil.pictures.tsne import apart
from tests import harness


def test_a_map_is_the_gradient_of_one_score_weighted_over_patches():
    backbone = make(harness.compose("backbone=clip_tiny")["backbone"], "backbone").eval().requires_grad_(False)
    random = torch.Generator().manual_seed(0)
    images, texts = torch.randn(3, 3, 32, 32, generator=random), F.normalize(torch.randn(4, 128, generator=random), dim=1)
    maps, contrasted = grad_cam(backbone, images, texts), grad_cam(backbone, images, texts, contrast=True)
    tower, last = backbone.trunk.visual, backbone.trunk.visual.transformer.resblocks[-1]
    for n, image in enumerate(images):
        x = tower.ln_pre(backbone.tokens(image[None]))
        for block in tower.transformer.resblocks[:-1]:
            x = block(x)
        for k, text in enumerate(texts):
            inner = last.ln_1(x).detach().requires_grad_()
            after = x + last.attn(inner, inner, inner, need_weights=False)[0]
            after = after + last.mlp(last.ln_2(after))
            feature = F.normalize(tower.ln_post(after[:, 0]) @ tower.proj, dim=1)[0]
            logits = backbone.logit_scale * feature @ texts.T
            for found, score in ((maps, backbone.logit_scale * feature @ text), (contrasted, logits.log_softmax(0)[k])):
                (slope,) = torch.autograd.grad(score, inner, retain_graph=True)
                weights = slope[0, 1:].mean(0)
                seen = (inner[0, 1:].detach() @ weights).clamp_min(0).view(1, 1, 4, 4)
                seen = F.interpolate(seen, (32, 32), mode="bilinear")[0, 0]
                wanted = (seen - seen.min()) / (seen.max() - seen.min()).clamp_min(1e-12)
                torch.testing.assert_close(found[n, k], wanted, atol=1e-3, rtol=1e-3)
    assert not backbone.cam_layer._forward_hooks


@pytest.fixture
def run(compose):
    words = ("method=attriclip", *harness.latin(20), "scenario.tasks=10", "train.epochs=1", "method.bank=4")
    return lambda *more: harness.execute(compose(*words, *more))


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_command_draws_three_files(run, kind, capsys):
    path = run().path
    before = {file: file.read_bytes() for file in path.iterdir() if file.is_file()}
    assert pictures.main([str(path), "--images", "3", "--format", kind]) == 0
    files = capsys.readouterr().out.split()[-3:]
    assert [file.rsplit("/", 1)[1] for file in files] == [
        f"{n}.{kind}" for n in ("prompts_of_images", "images_of_prompts", "keys")
    ]
    first = [(path / "pictures" / file.rsplit("/", 1)[1]).read_bytes() for file in files]
    assert pictures.main([str(path), "--images", "3", "--format", kind]) == 0
    assert first == [
        (path / "pictures" / file.rsplit("/", 1)[1]).read_bytes() for file in files
    ]  # nothing but the run is in them
    assert before == {file: file.read_bytes() for file in path.iterdir() if file.is_file()}
    if kind == "svg":
        text = first[0].decode()
        assert len(text) < 400_000 and "<image" in text


def test_a_folder_that_is_no_finished_run(tmp_path, capsys):
    assert pictures.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} is no finished run; type make pictures RUN=outputs/…/seed0\n"


def test_usage_and_folding(tmp_path):
    draw_usage(tmp_path / "keys.png", [[100, 0], [50, 50]], "keys")
    assert (tmp_path / "keys.png").stat().st_size > 1000
    assert (
        folded("latin capital letter r with line below", 14) == "latin capital\nletter r with\nline below"
        and folded("", 3) == ""
    )
    with pytest.raises(UserError, match=re.escape("--images 0 is not a whole number from 1 on")):
        (tmp_path / "DONE").write_text("")
        pictures.draw(tmp_path, 0, "png", "cosine")


def test_the_make_target_hands_the_run_over():
    told = subprocess.run(["make", "-n", "pictures", "RUN=outputs/x/seed0"], cwd=harness.ROOT, capture_output=True, text=True)
    assert ".venv/bin/python scripts/pictures.py outputs/x/seed0" in told.stdout.splitlines()


def test_a_run_in_half_precision_and_one_without_a_checkpoint(run, capsys):
    path = run("machine.precision=bf16").path
    assert pictures.main([str(path), "--images", "2", "--score", "contrast"]) == 0
    assert "2 images, Grad-CAM of the contrast; prompts encoded alone" in capsys.readouterr().out
    for file in path.glob("task_*.pt"):
        file.unlink()
    assert pictures.main([str(path)]) == 2
    assert "has no checkpoint any more" in capsys.readouterr().err


def test_features_after_a_task(compose, capsys):
    words = ("scenario.tasks=5", "train.epochs=1", "machine.keep_checkpoints=all")
    run = harness.execute(compose("method=rapf", *harness.latin(20), *words))
    for words, name in (([], "tsne.png"), (["--task", "2", "--format", "svg"], "tsne_task_02.svg")):
        drawn = []
        for _ in range(2):
            assert pictures.main([str(run.path), *words]) == 0
            drawn.append((run.path / "pictures" / name).read_bytes())
        assert drawn[0] == drawn[1]
    assert "24 test images of 2 tasks" in capsys.readouterr().out
    assert pictures.main([str(run.path), "--task", "11"]) == 2
    assert "one of the 5 tasks" in capsys.readouterr().err
    (run.path / "task_03.pt").unlink()
    assert pictures.main([str(run.path), "--task", "4"]) == 2
    assert "machine.keep_checkpoints=all" in capsys.readouterr().err


def test_names_on_a_plane_do_not_lie_on_one_another():
    moved = apart([(0.5, 0.5), (0.5, 0.5), (0.52, 0.51), (0.9, 0.5)], least=0.04)
    for i in range(3):
        for j in range(i):
            assert abs(moved[i] - moved[j])[1] >= 0.04
    assert tuple(moved[3]) == (0.9, 0.5)


def test_a_method_without_either_is_refused(compose, capsys):
    run = harness.execute(compose("method=continual_clip", "scenario.tasks=50"))
    assert pictures.main([str(run.path)]) == 2
    assert "method=attriclip, rapf, awpf or dytox" in capsys.readouterr().err
