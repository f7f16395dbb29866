"""A finished run answers only for what it wrote, and an unfinished one writes again what it lacks."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cil.commands.move_runs import moved
from cil.common.errors import UserError, explain
from cil.launch.run import verified
from cil.report.collect import apart, by_scenario, collect, rows, table
from cil.report.why import sweeps
from cil.runs.run_folder import RunDir
from tests import harness

WORDS = ("method=finetune", "backbone=resnet_tiny", "scenario.tasks=2", "train.epochs=1", "train.batch_size=64")


@pytest.fixture
def finished(compose) -> tuple[dict, RunDir]:
    config = compose(*WORDS)
    return config, harness.execute(config)


@pytest.mark.parametrize("damage", [
    lambda text: "", lambda text: text[: len(text) // 2], lambda text: "[]", lambda text: '{"acc": 99}', lambda text: "\0\1",
    lambda text: text.replace('"seed": 0', '"seed": 1', 1),
])  # fmt: skip
def test_a_summary_that_changed_is_told_in_one_sentence(finished, damage):
    config, run = finished
    file = run.path / "summary.json"
    text = file.read_text()
    assert run.summary()["seed"] == 0 and damage(text) != text
    file.write_text(damage(text))
    sentence = rf"summary.json is not as the run wrote it; delete {run.path / 'DONE'} and type the run's command again"
    with pytest.raises(UserError, match=sentence):
        run.summary()
    runs, passed_over = collect(run.path.parents[3])
    assert not runs and "is not as the run wrote it" in passed_over[0]
    (run.path / "DONE").unlink()
    harness.execute(config)
    again = run.summary()
    assert again["class_il"] == json.loads(text)["class_il"] and again["seed"] == 0


def test_accuracies_and_settings_that_changed_are_told_too(finished):
    _, run = finished
    for name in ("accuracy.csv", "config.yaml"):
        text = (run.path / name).read_text()
        (run.path / name).write_text(text.replace("1", "2", 1))
        with pytest.raises(UserError, match=f"{name} is not as the run wrote it"):
            run.summary()
        (run.path / name).write_text(text)
    (run.path / "accuracy.csv").unlink()
    with pytest.raises(UserError, match=r"accuracy.csv is not as the run wrote it"):
        run.summary()


def test_runs_of_earlier_versions_have_an_empty_done_and_still_answer(finished):
    _, run = finished
    (run.path / "DONE").write_text("")
    assert run.summary()["seed"] == 0
    (run.path / "summary.json").write_text("{")
    with pytest.raises(UserError, match="is not as the run wrote it"):
        run.summary()


def test_what_an_unfinished_run_lacks_is_written_again(finished):
    config, run = finished
    wanted = (run.path / "accuracy.csv").read_text()
    for name in ("DONE", "accuracy.csv", "summary.json"):
        (run.path / name).unlink()
    (run.path / "task_00.pt").write_bytes((run.path / "task_01.pt").read_bytes())  # of a process that was killed right then
    harness.execute(config)
    assert (run.path / "accuracy.csv").read_text() == wanted and run.summary()["tasks"] == 2
    assert [file.name for file in run.path.glob("*.pt")] == ["task_01.pt"]


def test_a_run_that_is_moved_is_sealed_again(finished):
    _, run = finished
    outputs = run.path.parents[3]
    old = run.path.parent.with_name("0123456789")
    run.path.parent.rename(old)
    assert next(iter(moved(outputs, dry=False))).endswith(str(run.path.relative_to(outputs)))
    assert run.summary()["seed"] == 0
    run.path.parent.rename(old)
    summary = old / "seed0" / "summary.json"
    summary.write_text(summary.read_text().replace('"seed": 0', '"seed": 1'))
    assert "left; " in (line := next(iter(moved(outputs, dry=False)))) and "is not as the run wrote it" in line


@pytest.mark.parametrize("damage", [
    lambda b: b[:40] + bytes([b[40] ^ 255]) + b[41:],
    lambda b: b[:-30] + bytes([b[-30] ^ 255]) + b[-29:],
    lambda b: b.replace(b"/data.pkl", b"/\xffata.pkl"),
    lambda b: b[:-1], lambda b: b"", lambda b: b"PK\x03\x04", lambda b: b"PK\x05\x06" + bytes(18),
])  # fmt: skip
def test_a_damaged_checkpoint_is_told_in_one_sentence(tmp_path, damage):
    run = RunDir(tmp_path)
    file = tmp_path / "task_00.pt"
    torch.save({"method": {"a": torch.arange(9.0)}, "task": 0}, file)
    whole = file.read_bytes()
    assert run.load(file)["task"] == 0
    file.write_bytes(damage(whole))
    with pytest.raises(UserError, match="is damaged and was not used; delete it and type the same command again"):
        run.load(file)


def mounted(folder, kilobytes: int, how: str = "") -> bool:
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"{how}size={kilobytes}k", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("kilobytes", [20, 60, 100, 140])
def test_a_full_disk_is_one_sentence_and_loses_nothing(compose, tmp_path, kilobytes, finished):
    """On a file system of its own that is too small for the run, which then gets room."""
    if not mounted(tmp_path / "small", kilobytes):
        pytest.skip("only root may mount a small file system here")
    config = compose(*WORDS, f"outputs={tmp_path / 'small'}")
    try:
        with pytest.raises(OSError) as error:
            harness.execute(config)
        assert "is full; free some space and type the same command" in explain(error.value)
        assert mounted(tmp_path / "small", 50_000, "remount,")
        harness.execute(config)
        harness.assert_same_bits(finished[1], harness.run_of(config))
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "small")], check=False)


def test_a_checkpoint_that_torch_cannot_write_is_a_full_disk(tmp_path, monkeypatch):
    """torch hides the system's word behind its own."""

    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 3392 vs 3284")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError) as error:
        RunDir(tmp_path).save({}, task=0, inside=False, keep_all=False)
    assert f"the disk of {tmp_path / 'task_00.pt'} is full" in explain(error.value)


# --- other images under the same name ---------------------------------------------------------------------------------


def draw(folder: Path, seed: int, side: int = 32) -> None:
    """Two classes of photographs below `folder`/birds."""
    random = np.random.RandomState(seed)
    for row in range(8):
        file = folder / "birds" / ("train" if row < 6 else "test") / f"class{row % 2}" / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.randint(0, 255, (side, side, 3), np.uint8)).save(file)


@pytest.fixture
def photographs(tmp_path) -> Callable[..., dict]:
    def config(root: str, seed: int = 0) -> dict:
        words = ("scenario=folder", "dataset.path=birds", "method=class_mean", "backbone=vit_tiny", "scenario.tasks=2",
                 "machine=cpu", "log.live=false", "backbone.weights=null", "backbone.sha256=null", "data.features=null",
                 f"data.root={tmp_path / root}", f"seed={seed}", f"outputs={tmp_path / 'outputs'}", "augment=none")  # fmt: skip
        return harness.compose(*words)

    return config


def test_a_finished_run_does_not_answer_for_other_images(photographs, tmp_path):
    draw(tmp_path / "one", 1)
    draw(tmp_path / "two", 2)
    run = harness.execute(photographs("one"))
    assert verified(run, photographs("one")) == run.summary()
    with pytest.raises(UserError, match=r"the images have changed since .* was made, or"):
        verified(run, photographs("two"))
    shutil.rmtree(tmp_path / "one" / "birds" / "train" / "class0")
    draw(tmp_path / "one", 3)
    with pytest.raises(UserError, match=r"the images have changed"):
        verified(run, photographs("one"))


def test_other_images_are_refused_before_any_is_decoded(photographs, tmp_path, monkeypatch):
    draw(tmp_path / "one", 1)
    run = harness.execute(photographs("one"))
    draw(tmp_path / "one", 2, side=48)

    def decoded(config: dict) -> str:
        raise AssertionError("decoded")

    monkeypatch.setattr("cil.engine.build.data_digest", decoded)
    with pytest.raises(UserError, match=r"the images have changed"):
        verified(run, photographs("one"))


def test_images_that_were_copied_or_removed_are_no_others(photographs, tmp_path, capsys):
    draw(tmp_path / "one", 1)
    run = harness.execute(photographs("one"))
    shutil.copytree(tmp_path / "one", tmp_path / "copy", copy_function=shutil.copy)  # with new times
    assert verified(run, photographs("copy")) == run.summary()
    shutil.rmtree(tmp_path / "copy" / "birds")
    assert verified(run, photographs("copy")) == run.summary()
    assert "the images of this run were not compared with those on the disk" in capsys.readouterr().out


def test_tables_never_average_over_other_images(photographs, tmp_path):
    draw(tmp_path / "one", 1)
    draw(tmp_path / "two", 2)
    first, second = (harness.execute(photographs(name, seed)) for seed, name in enumerate(("one", "two")))
    groups = rows(collect(first.path.parents[3])[0])
    assert [len(group) for group in groups] == [1, 1]
    wanted = {f"images {run.summary()['identity']['data_digest'][:6]}" for run in (first, second)}
    lines = table(groups).splitlines()[2:]
    assert all(any(words in line for line in lines) for words in wanted)


def test_a_table_of_a_folder_says_which_one(photographs, tmp_path):
    draw(tmp_path / "one", 1)
    run = harness.execute(photographs("one")).summary()
    other = json.loads(json.dumps(run)) | {"identity": {"data_digest": "0" * 16}}
    other["config"]["dataset"]["path"] = "pets/all"
    del other["data_counts"]  # as in summaries of earlier versions
    first, second = by_scenario([run, other]).split("\n\n")
    assert first.startswith("folder pets/all: images (0000000000000000)\nmethod ")
    digest = run["identity"]["data_digest"]
    assert second.startswith(f"folder birds: 2 classes, 6 training and 2 test images ({digest})\nmethod ")
    assert by_scenario([run, other | {"scenario": "z"}]).startswith("folder birds\nmethod ")


def test_why_and_sweeps_never_average_over_other_images(photographs, tmp_path):
    draw(tmp_path / "one", 1)
    draw(tmp_path / "two", 2)
    summaries = [harness.execute(photographs(name, seed)).summary() for seed, name in enumerate(("one", "two"))]
    names = [f"images {run['identity']['data_digest'][:6]}" for run in summaries]
    said = list(sweeps(summaries, summaries))
    assert all(any(name in line and "(1) →" in line for line in said) for name in names), said
    assert not any("(2)" in line for line in said)
    together = list(sweeps(summaries[:1], summaries[1:]))
    assert any("other images:" in line for line in together) and not any(names[0] in line for line in together[:4])
    assert sorted(name for name, _ in apart(summaries)) == sorted(names) and apart(summaries[:1]) == [("", summaries[:1])]


def test_a_finished_run_does_not_answer_for_another_order_in_the_same_file(photographs, tmp_path):
    draw(tmp_path / "one", 1)
    (file := tmp_path / "order.txt").write_text("class1\nclass0\n")
    config = photographs("one")
    config["scenario"]["order"] = str(file)
    run = harness.execute(config)
    assert verified(run, config) == run.summary()
    file.write_text("class0\nclass1\n")
    with pytest.raises(
        UserError, match=r"order\.txt has changed since .* was made; give the new class order another file name"
    ):
        verified(run, config)
