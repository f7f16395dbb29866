"""Mirrors show what the run folder has, move no number, go on where a run was cut off, and may fail."""

import os
import shutil
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from cil.common.errors import UserError
from cil.common.signals import Stopped
from cil.engine.build import reopened
from cil.runs.loggers import found
from cil.runs.run_folder import RunDir, read_matrices
from tests import harness
from tests.runs.fake_wandb import Fake

WORDS = (
    "method=finetune",
    "backbone=resnet_tiny",
    "scenario.tasks=2",
    "train.epochs=2",
    "train.batch_size=64",
    "optim.lr=0.01",
)
OFFLINE = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_API_KEY": "", "NETRC": os.devnull}


@pytest.fixture
def fake(monkeypatch) -> Fake:
    made = Fake()
    monkeypatch.setitem(sys.modules, "wandb", made)
    for key, value in OFFLINE.items():
        monkeypatch.setenv(key, value)
    return made


@pytest.fixture
def offline(monkeypatch, tmp_path) -> None:
    """The real library, with nothing outside the test's folder."""
    for key, value in OFFLINE.items():
        monkeypatch.setenv(key, value)
    for key in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(key, str(tmp_path / key))


@pytest.fixture(scope="module")
def plain(tmp_path_factory, data_root) -> RunDir:
    """The run without a mirror."""
    where = (f"outputs={tmp_path_factory.mktemp('plain')}", f"data.root={data_root}")
    return harness.execute(harness.compose(*where, *harness.SMALL, *WORDS))


def cut(config: dict, epochs: int) -> None:
    """Run until so many epochs are in the record; then a polite signal stops it."""
    event, seen = RunDir.event, []

    def counted(run: RunDir, **record: object) -> None:
        event(run, **record)
        seen.extend(["losses"] if "losses" in record else [])
        if len(seen) == epochs and "losses" in record:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(RunDir, "event", counted)
        harness.execute(config)


def same(run: RunDir, plain: RunDir) -> None:
    harness.assert_same_bits(run, plain)
    assert (run.path / "accuracy.csv").read_bytes() == (plain.path / "accuracy.csv").read_bytes()
    assert run.path.parts[-4:] == plain.path.parts[-4:]  # the address


# --- wandb, played ----------------------------------------------------------------------------------------------------


def test_wandb_is_told_all_that_a_run_is(compose, fake, plain):
    run = harness.execute(compose(*WORDS, "log=wandb", "log.project=trial", "log.entity=team"))
    same(run, plain)
    (mirror,) = fake.runs
    given, logged = mirror.given, list(mirror.logged.values())
    place = "/".join(run.path.parts[-4:])
    assert (given["project"], given["entity"], given["mode"], given["dir"]) == ("trial", "team", "offline", run.path)
    assert given["name"] == place and given["group"] == place.removesuffix("/seed0") and given["config"]["seed"] == 0
    assert given["resume"] == "allow" and given["id"] == (run.path / "wandb_id").read_text()
    losses = [point for point in logged if any(key.startswith("train/") for key in point)]
    record = [line for line in harness.losses(run) if "losses" in line]
    assert [point["task"] for point in losses] == [1, 1, 2, 2] and [point["epochs"] for point in losses] == [1, 2, 3, 4]
    for point, line in zip(losses, record, strict=True):
        assert all(point[f"train/{line['phase']}/{name}"] == value for name, value in line["losses"].items())
        assert point[f"train/{line['phase']}/images_per_second"] > 0
    assert mirror.axes["train/*"] == "epochs" and mirror.axes["class_il/*"] == mirror.axes["task_il/*"] == "task"
    first, second = [point for point in logged if "class_il/acc" in point]
    for kind, matrix in read_matrices(run.path).items():
        assert first[f"{kind}/task_01"] == first[f"{kind}/acc"] == pytest.approx(matrix.after(0), abs=1e-3)
        assert [second[f"{kind}/task_{task:02d}"] for task in (1, 2)] == matrix.percent[1].tolist()
        assert second[f"{kind}/forgetting"] == matrix.summary()["forgetting"] and f"{kind}/forgetting" not in first
        assert second[f"{kind}/backward_transfer"] == matrix.summary()["backward_transfer"]
        _, columns, rows = logged[-1][f"tables/{kind}"]
        assert columns == ["after task", "task 1", "task 2", "mean"]
        assert rows[0] == [1, matrix.percent[0, 0], None, matrix.after(0)] and rows[1][1:3] == matrix.percent[1].tolist()
    assert {name: logged[-1][f"pictures/{name}"][1] for name in ("accuracy", "matrix")} == dict(
        accuracy="accuracy.png", matrix="matrix.png"
    )
    assert mirror.summary["class_il/acc"] == run.summary()["class_il"]["acc"]
    assert mirror.config["identity"] == run.summary()["identity"] and mirror.config["address"] == place
    assert mirror.exit_code == 0


def test_a_run_that_goes_on_is_the_same_run_there_and_no_point_comes_twice(compose, fake, plain, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    config = compose(*WORDS, "log=wandb")
    cut(config, 3)
    run = harness.execute(config)
    same(run, plain)
    before, after = fake.runs
    assert before.given["id"] == after.given["id"] and (before.exit_code, after.exit_code) == (1, 0)
    assert after.starting_step == len(before.logged) and not before.logged.keys() & after.logged.keys()
    points = [*before.logged.values(), *after.logged.values()]
    assert [point["epochs"] for point in points if any(key.startswith("train/") for key in point)] == [1, 2, 3, 4]
    assert [point["task"] for point in points if "class_il/acc" in point] == [1, 2]
    shutil.rmtree(run.path)
    harness.execute(config)
    assert fake.runs[-1].given["id"] != before.given["id"]


def test_what_was_recorded_before_there_was_a_mirror_is_shown_too(compose, fake):
    cut(compose(*WORDS), 3)
    harness.execute(compose(*WORDS, "log=wandb"))
    assert [point["epochs"] for point in fake.runs[0].logged.values() if "epochs" in point][-1] == 4
    assert len(fake.runs[0].logged) == 7  # four epochs, two rows, the last page


@pytest.mark.parametrize("call", [1, 3, 7])
def test_a_mirror_that_breaks_does_not_stop_the_run(compose, fake, plain, call):
    fake.breaks = {call}
    run = harness.execute(compose(*WORDS, "log=wandb"))
    same(run, plain)
    told = [line for line in (run.path / "run.log").read_text().splitlines() if "wandb failed" in line]
    assert len(told) == 1 and "No space left" in told[0] and "the run goes on without it" in told[0]
    assert fake.runs[0].calls == call


def test_a_service_that_refuses_does_not_stop_the_run(compose, fake):
    fake.refuses = {"online"}
    run = harness.execute(compose(*WORDS, "log=wandb", "log.mode=online"))
    assert not fake.runs and "wandb failed (no route to host)" in (run.path / "run.log").read_text()


@pytest.fixture
def service(monkeypatch):
    """Somebody who answers, if only that there is nothing."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.RequestHandlerClass.log_message = lambda *words: None
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


def test_it_is_online_where_there_are_a_key_and_an_answer(monkeypatch, tmp_path, service):
    for key, value in OFFLINE.items():
        monkeypatch.setenv(key, value)
    assert found() == "offline"
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert found() == "offline"
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password none\n")
    assert found() == "online"
    (tmp_path / "netrc").write_text("machine elsewhere login user password none\n")
    assert found() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "a key")
    assert found() == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert found() == "offline"


@pytest.mark.parametrize(("library", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_missing_library_is_told_in_one_line(compose, monkeypatch, library, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"type pip install {library}, or log=console"):
        harness.execute(compose(*WORDS, f"log={library}"))


def test_a_wrong_mode_is_told(compose):
    with pytest.raises(UserError, match=r"log.mode=ofline is not known; did you mean offline"):
        harness.execute(compose(*WORDS, "log=wandb", "log.mode=ofline"))


# --- the real ones ----------------------------------------------------------------------------------------------------


def test_wandb_offline(compose, offline, plain):
    config = compose(*WORDS, "log=wandb")
    cut(config, 1)
    name = (harness.run_of(config).path / "wandb_id").read_text()
    run = harness.execute(config)
    same(run, plain)
    folders = list((run.path / "wandb").glob("offline-run-*"))  # wandb adds -1 to the second folder of one second
    assert folders and {file.name for folder in folders for file in folder.glob("run-*")} == {f"run-{name}.wandb"}
    newest = max(folders)
    assert (newest / f"run-{name}.wandb").stat().st_size > 0
    assert {file.name.split("_")[0] for file in newest.glob("files/media/images/pictures/*.png")} == {"accuracy", "matrix"}
    assert len(list(newest.glob("files/media/table/tables/*.json"))) == 2
    files = len(list((run.path / "wandb").glob("offline-run-*")))
    assert len(reopened(run.path).scenario) == 2  # only looked at: no mirror
    assert len(list((run.path / "wandb").glob("offline-run-*"))) == files and "failed" not in (run.path / "run.log").read_text()


def test_tensorboard(compose, plain):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = compose(*WORDS, "log=tensorboard")
    cut(config, 3)
    run = harness.execute(config)
    same(run, plain)
    told = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"images": 0, "tensors": 0}).Reload()
    phase = next(line for line in harness.losses(run) if "losses" in line)
    for name in phase["losses"]:
        points = told.Scalars(f"train/{phase['phase']}/{name}")
        assert [point.step for point in points] == [1, 2, 3, 4] and points[0].value == pytest.approx(phase["losses"][name])
    for kind, matrix in read_matrices(run.path).items():
        acc = told.Scalars(f"{kind}/acc")
        assert [point.step for point in acc] == [1, 2] and acc[1].value == pytest.approx(matrix.after(1), abs=1e-3)
        assert [point.step for point in told.Scalars(f"{kind}/forgetting")] == [2]
    assert {"pictures/accuracy", "pictures/matrix"} <= set(told.Tags()["images"])
    texts = {tag.split("/text_summary")[0] for tag in told.Tags()["tensors"]}
    assert {"configuration", "identity", "summary", "table/class_il", "table/task_il"} <= texts
    assert "failed" not in (run.path / "run.log").read_text()
