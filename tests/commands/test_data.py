"""make data and check_data.py, and a run on photographs of many sizes, as a user meets them."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from cil.commands import check_data, fetch_data
from cil.data.image_parts import write_part
from tests import harness
from tests.data.datasets import miniature


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture
def server(tmp_path):
    """An address that serves a folder, and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()


def test_make_data_fetches_what_is_missing_and_the_loader_finds_it(server, tmp_path, capsys):
    address, folder = server
    miniature.lay(miniature.fashion_mnist(), folder)
    words = ["fashion_mnist", "--root", str(tmp_path / "data"), "--from", address]
    assert fetch_data.main(words) == 0
    assert fetch_data.main(words) == 0
    assert "is there" in capsys.readouterr().out
    free = "dataset.sha256={" + ",".join(f"{file.stem}: null" for file in folder.iterdir()) + "}"
    assert len(miniature.read("fashion_mnist", tmp_path / "data", free).train) == 20


def test_make_data_refuses_another_archive_and_keeps_nothing(server, tmp_path, capsys):
    address, folder = server
    miniature.zipped(miniature.tinyimagenet(), folder / "tiny-imagenet-200.zip")
    assert fetch_data.main(["tinyimagenet", "--root", str(tmp_path / "data"), "--from", address]) == 2
    line = capsys.readouterr().err.splitlines()[-1]  # after those of the progress
    assert line.startswith("error: ") and "90528d7ca1a4" in line
    assert not list((tmp_path / "data").glob("*.zip"))


def test_make_data_says_what_may_not_be_fetched(capsys):
    assert fetch_data.main(["imagenet100"]) == 0
    assert "imagenet/train/<wnid>/*.JPEG" in capsys.readouterr().out
    assert fetch_data.main(["imagenet10"]) == 2
    assert "did you mean imagenet100?" in capsys.readouterr().err


def test_every_data_set_has_a_source():
    from cil.data.datasets.places import SOURCES

    assert set(SOURCES) == set(harness.options("dataset"))


def test_check_data_counts_without_decoding(tmp_path, capsys):
    miniature.lay(miniature.cub200(), tmp_path)
    assert check_data.main([f"data.root={tmp_path}", "cub200", "dataset.images=5", "dataset.md5=null"]) == 0
    assert check_data.main([f"data.root={tmp_path}", "cifar100"]) == 2
    out, err = capsys.readouterr()
    (row,) = (line.split() for line in out.splitlines() if line.startswith("cub200 "))
    assert row[1:6] == ["2", "3", "1–2", "2", "1"]
    assert err.startswith("error: cifar100: CIFAR100 is not there") and not (tmp_path / "decoded").exists()
    assert max(len(line) for line in out.splitlines()) <= 80


def test_check_data_lists_what_has_a_name(capsys):
    assert check_data.main(["--lists"]) == 0
    out = capsys.readouterr().out
    assert "cifar100/podnet" in out and "imagenet100_cmc" in out and max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("words", [("method=class_mean",), ("method=finetune", "train.epochs=2", "optim.lr=0.01")])
def test_a_run_on_photographs_of_many_sizes(tmp_path, words):
    """Frozen results, random crops and centre crops; stored whole and stored small."""
    files = {f"birds/{side}/{name}/{k}.jpg": miniature.jpeg(k + 10 * n, (40 + 3 * k, 60 - 4 * k))
             for side in ("train", "test") for n, name in enumerate("abcd") for k in range(4)}  # fmt: skip
    miniature.lay(files, tmp_path / "data")
    base = (f"outputs={tmp_path / 'outputs'}", f"data.root={tmp_path / 'data'}", "scenario=folder", "dataset.path=birds",
            "scenario.tasks=2", "backbone=resnet_tiny", "machine=cpu", "log.live=false", *words)  # fmt: skip
    whole, small = (harness.execute(harness.compose(*base, *more)) for more in ((), ("dataset.shorter_side=40",)))
    assert whole.summary()["class_il"]["acc"] >= 0
    digests = [run.summary()["identity"]["data_digest"] for run in (whole, small)]
    assert digests[0] != digests[1] and whole.path != small.path


def test_check_data_removes_decoded_parts_that_are_damaged(tmp_path, capsys):
    parts = [tmp_path / "decoded" / "birds" / "key" / f"{number:05d}.part" for number in range(2)]
    for part in parts:
        write_part(part, [np.full((5, 4, 3), 7, np.uint8)] * 3)
    assert check_data.main(["--decoded", f"data.root={tmp_path}"]) == 0
    assert "2 parts of decoded photographs" in (told := capsys.readouterr().out) and ", 0 damaged" in told
    whole = bytearray(parts[1].read_bytes())
    whole[100] ^= 1
    parts[1].write_bytes(whole)
    assert check_data.main(["--decoded", f"data.root={tmp_path}"]) == 0
    told = capsys.readouterr().out
    assert f"{parts[1]} was damaged and is removed" in told and "2 parts" in told and ", 1 damaged" in told
    assert parts[0].exists() and not parts[1].exists()
    parts[1].write_bytes(bytes(60) + b"cilpart1" + (3).to_bytes(8, "little"))
    assert check_data.main(["--decoded", f"data.root={tmp_path}"]) == 0
    told = capsys.readouterr().out
    assert "1 parts were written by an earlier version" in told and ", 0 damaged" in told and parts[1].exists()
