"""ImageNet-R's splits on a list of invented files, and on 30,000 where the numbers are published."""

import hashlib

import pytest
import torch

from cil.common.errors import UserError
from cil.data.registry import splits
from cil.data.registry.splits import imagenet_r_split, split_digest
from tests.harness import ROOT

FILES = sorted(f"n0{wnid}/{kind}_{number}.jpg" for wnid, many in ((1443537, 7), (1484850, 13)) for kind in ("art", "toy")
               for number in range(many))  # fmt: skip
TRAIN, TEST = list(range(0, 40, 2)), list(range(1, 40, 2))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "splits").mkdir()
    return tmp_path


def coda(folder, monkeypatch, train, test):
    for (name, _), rows in zip(tuple(splits.CODA.items()), (train, test), strict=True):
        paths = "".join(f"- data/imagenet-r/{FILES[row]}\n" for row in rows)
        content = (f"data:\n{paths}targets:\n" + "- 0\n" * len(rows)).encode()
        (folder / "splits" / name).write_bytes(content)
        monkeypatch.setitem(splits.CODA, name, hashlib.md5(content).hexdigest())


@pytest.mark.parametrize(
    ("seed", "begins"),
    [
        (42, [7542, 10109, 19114, 5209, 9270, 15555]),
        (43, [25588, 24144, 5303, 9745, 16245, 20525]),
        (59, [593, 7994, 4181, 25325, 28399, 18885]),
    ],
)
def test_random_is_pgp(folder, seed, begins):
    files = [f"n00000000/{number:05}.jpg" for number in range(30_000)]
    train, test = imagenet_r_split(f"random:{seed}", files, folder)
    torch.manual_seed(seed)
    drawn = torch.randperm(30_000).tolist()
    assert drawn[:6] == begins and set(begins) <= set(train)
    assert (train, test) == (sorted(drawn[:24_000]), sorted(drawn[24_000:]))


def test_stratified(folder):
    train, test = imagenet_r_split("stratified:0", FILES, folder)
    assert sorted(train + test) == list(range(40)) and train == sorted(train)
    assert [sum(FILES[row].startswith(wnid) for row in train) for wnid in ("n01443537", "n01484850")] == [11, 20]
    assert imagenet_r_split("stratified:0", FILES, folder) == (train, test) != imagenet_r_split("stratified:1", FILES, folder)


def test_lists(folder, monkeypatch):
    coda(folder, monkeypatch, TRAIN[::-1], TEST)
    lines = ["train", *(FILES[row] for row in TEST), "test", *(FILES[row] for row in TRAIN)]
    (folder / "splits" / splits.RAPF).write_text("\n".join(lines) + "\n")
    (folder / "splits" / splits.TFDS).write_text("\n".join(f"imagenet-r/{file}" for file in FILES[::-1]))
    assert imagenet_r_split("coda", FILES, folder) == (TRAIN, TEST)
    assert imagenet_r_split("rapf", FILES, folder) == (TEST, TRAIN)
    assert imagenet_r_split("tfds", FILES, folder) == (list(range(8, 40)), list(range(8)))


def test_lists_that_do_not_fit(folder, monkeypatch):
    coda(folder, monkeypatch, [*TRAIN, 0], TEST[:-3])
    (folder / "splits" / splits.RAPF).write_text("\n".join(["train", *FILES, "n01443537/no.jpg", "test"]))
    with pytest.raises(
        UserError, match=r"^dataset.split=coda names 38 files, 0 of them absent, 1 repeated, and leaves out 3 of 40;"
    ):
        imagenet_r_split("coda", FILES, folder)
    with pytest.raises(
        UserError, match=r"^dataset.split=rapf names 41 files, 1 of them absent, 0 repeated, and leaves out 0 of 40;"
    ):
        imagenet_r_split("rapf", FILES, folder)


@pytest.mark.parametrize(
    ("convention", "line"),
    [
        ("coda", r"imagenet-r_train.yaml is not there; fetch imagenet-r_train.yaml and imagenet-r_test.yaml from datasets/"
                 r"imagenet_r_utils/ of github.com/aimagelab/mammoth into .*splits \(rows of PGP: dataset.split=random:43 or "),
        ("rapf", r"imgr_train_test_split.txt is not there; fetch .* or type dataset.split=stratified:0$"),
        ("tfds", r"tfds_order.txt is not there; the archive does not tell TFDS' order: .* or type dataset.split=coda$"),
        ("folders", r"^dataset.split=folders needs PILOT's archive .* or type dataset.split=coda$"),
        ("random", r"^dataset.split=random has no whole number for a seed; type dataset.split=random:42$"),
        ("stratified:x", r"^dataset.split=stratified:x has no whole number for a seed; type dataset.split=stratified:42$"),
        ("codda", r"^dataset.split=codda is not known; did you mean coda\?$"),
        ("coda:1", r"^dataset.split=coda:1 is not known; did you mean coda\?$"),
    ],
)  # fmt: skip
def test_refusals(folder, convention, line):
    with pytest.raises(UserError, match=line) as refused:
        imagenet_r_split(convention, FILES, folder)
    assert "\n" not in str(refused.value)


def test_damaged_lists(folder):
    for name in splits.CODA:
        (folder / "splits" / name).write_text("data: []\n")
    (folder / "splits" / splits.RAPF).write_text("n01443537/art_0.jpg\n")
    with pytest.raises(
        UserError, match=r"imagenet-r_train.yaml has md5 .*, CODA-Prompt's list has b90d9c76.*; fetch it again$"
    ):
        imagenet_r_split("coda", FILES, folder)
    with pytest.raises(UserError, match=r"must have a line train, its paths, a line test, its paths; fetch it again$"):
        imagenet_r_split("rapf", FILES, folder)


def test_unsorted_files_are_the_callers_fault(folder):
    with pytest.raises(ValueError, match=r"sorted"):
        imagenet_r_split("random:0", FILES[::-1], folder)


def test_the_digest_is_of_the_split_not_of_the_layout():
    here = split_digest(FILES, TRAIN, TEST)
    moved = [f"train/{FILES[row]}" for row in TRAIN] + [f"test/{FILES[row]}" for row in TEST]
    assert split_digest(moved, range(19, -1, -1), range(20, 40)) == here
    assert split_digest(FILES, TEST, TRAIN) != here


def test_the_page_lists_the_splits():
    page = (ROOT / "cil" / "data" / "registry" / "README.md").read_text()
    assert all(f"| `{name}` |" in page for name in splits.SPLITS)
    assert all(md5 in page for md5 in splits.CODA.values())
