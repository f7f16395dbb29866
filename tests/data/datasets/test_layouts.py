"""Every layout that a data set comes in: the official archive, what is unpacked of it, and what can be wrong with both."""

import hashlib
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cil.common.errors import UserError
from cil.data.datasets.fashion_mnist import PLACES
from cil.data.registry.classes import class_list
from cil.data.registry.orders import class_order
from cil.data.transforms.views import ImageSpec
from cil.engine.build import build_scenario, make
from tests.data.datasets import miniature
from tests.data.datasets.miniature import photo, read
from tests.harness import ROOT, compose

REAL = ROOT.parent / "shared" / "data" / "tiny-imagenet-200.zip"


# --- TinyImageNet -----------------------------------------------------------------------------------------------------

FREE = ("dataset.md5=null", "dataset.images=null")
TINY = ("dataset.md5=null", "dataset.train_per_class=2")
HALF = "scenario=tinyimagenet_half_10tasks"


@pytest.mark.parametrize("layout", ["folder", "stored", "deflated"])
def test_tinyimagenet_is_the_same_from_every_layout(tmp_path, layout):
    files = miniature.tinyimagenet()
    if layout == "folder":
        miniature.lay(files, tmp_path)
    else:
        packing = zipfile.ZIP_STORED if layout == "stored" else zipfile.ZIP_DEFLATED
        miniature.zipped(files, tmp_path / "tiny-imagenet-200.zip", packing)
    images = read("tinyimagenet", tmp_path, *TINY)
    assert images.class_names == ("goldfish", "bullfrog", "king penguin")  # by sorted wnid, the first lemma
    assert images.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images.test_labels.tolist() == [2, 0, 1] * 50  # the annotations', in the files' order
    for row, name in enumerate(("train/n01/images/n01_0.JPEG", "train/n01/images/n01_1.JPEG", "train/n02/images/n02_0.JPEG")):
        assert np.array_equal(photo(images.train, row), miniature.pixels(files[f"tiny-imagenet-200/{name}"])), (
            name
        )  # grey, CMYK
    assert np.array_equal(photo(images.test, 149), miniature.pixels(files["tiny-imagenet-200/val/images/val_149.JPEG"]))
    unpacked = miniature.lay(files, tmp_path / "again")
    assert images.digest == read("tinyimagenet", unpacked, *TINY).digest


def test_numbered_files_are_taken_by_their_numbers(tmp_path):
    miniature.zipped(miniature.tinyimagenet(train=12), tmp_path / "tiny-imagenet-200.zip")
    few = ("dataset.train_per_class=11", "dataset.test_per_class=4")
    whole = make(compose("dataset=tinyimagenet", "dataset.md5=null", *few)["dataset"], "dataset", root=str(tmp_path))
    assert [whole.train.names[row].split("_")[1] for row in whole.train.rows[:11]] == [f"{k}.JPEG" for k in range(11)]
    assert [whole.test.names[row] for row in whole.test.rows] == [f"val/images/val_{k}.JPEG" for k in range(12)]


def test_fewer_images_than_the_official_ones_are_not_taken_silently(tmp_path):
    miniature.zipped(miniature.tinyimagenet(), tmp_path / "tiny-imagenet-200.zip")
    with pytest.raises(UserError, match=r"class 0 \(goldfish\) has 2 of 500 training images.*type dataset.train_per_class=N"):
        read("tinyimagenet", tmp_path, "dataset.md5=null")


def test_a_wrong_checksum_is_refused_and_told(tmp_path):
    archive = miniature.zipped(miniature.tinyimagenet(), tmp_path / "tiny-imagenet-200.zip")
    found = hashlib.md5(archive.read_bytes()).hexdigest()
    for _ in range(2):  # the second time from the record
        with pytest.raises(
            UserError, match=f"has md5 {found[:12]}…, the official one has 90528d7ca1a4…; .*dataset.md5={found}"
        ):
            read("tinyimagenet", tmp_path)
    assert read("tinyimagenet", tmp_path, f"dataset.md5={found}", TINY[1])
    archive.write_bytes(archive.read_bytes() + b"x")  # another file under the same name: hashed again
    with pytest.raises(UserError, match="has md5"):
        read("tinyimagenet", tmp_path, f"dataset.md5={found}", TINY[1])


def test_a_torn_zip_is_refused(tmp_path):
    archive = miniature.zipped(miniature.tinyimagenet(), tmp_path / "tiny-imagenet-200.zip")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is damaged or not an archive; delete it and fetch it again"):
        read("tinyimagenet", tmp_path, *TINY)


def test_a_missing_class_is_named(tmp_path):
    files = {name: content for name, content in miniature.tinyimagenet().items() if "/train/n02/" not in name}
    miniature.lay(files, tmp_path)
    with pytest.raises(UserError, match=r"class 1 \(bullfrog\) has 0 training images; add some, or fetch"):
        read("tinyimagenet", tmp_path, *TINY)


def test_an_unreadable_photograph_is_named_and_nothing_of_it_is_kept(tmp_path):
    files = miniature.tinyimagenet()
    bad = "tiny-imagenet-200/train/n02/images/n02_1.JPEG"
    whole, files[bad] = files[bad], files[bad][:300]
    miniature.lay(files, tmp_path)
    with pytest.raises(UserError, match=r"train/n02/images/n02_1.JPEG cannot be decoded .*fetch the dataset again"):
        read("tinyimagenet", tmp_path, *TINY)
    assert not list((tmp_path / "decoded").rglob("*.part*"))
    (tmp_path / bad).write_bytes(whole)
    assert np.array_equal(photo(read("tinyimagenet", tmp_path, *TINY).train, 3), miniature.pixels(whole))


def test_nothing_there_is_told_with_what_to_type(tmp_path):
    for name in ("tinyimagenet", "cub200", "imagenet_r", "cifar100", "imagenet100"):
        with pytest.raises(UserError, match=f"is not there.*make data DATASET={name}"):
            read(name, tmp_path)


def test_halves_of_tinyimagenet_are_by_the_class_order(tmp_path):
    """numpy:1993 orders three classes 0, 2, 1: the first half is one of them, the second the other two."""
    miniature.zipped(miniature.tinyimagenet(train=4), tmp_path / "tiny-imagenet-200.zip")
    few = ("dataset.md5=null", "dataset.train_per_class=3", "dataset.test_per_class=2")
    whole = read("tinyimagenet", tmp_path, "dataset.md5=null", "dataset.train_per_class=4")
    order = class_order("numpy:1993", 3)
    for half, labels in (("first", order[:1]), ("second", sorted(order[1:]))):
        images = read("tinyimagenet", tmp_path, HALF, *few, f"dataset.half={half}")
        assert images.class_names == tuple(whole.class_names[k] for k in labels)
        assert images.train_labels.bincount().tolist() == [3] * len(labels)
        assert images.test_labels.bincount().tolist() == [2] * len(labels)
        row = int((images.test_labels == 0).nonzero()[1])
        wanted = int((whole.test_labels == labels[0]).nonzero()[1])
        assert np.array_equal(photo(images.test, row), photo(whole.test, wanted))
    for word, told in (
        ("half=third", "dataset.half=third is not known; choose from first, second"),
        ("test_per_class=0", "dataset.test_per_class=0 is not a whole number from 1 on"),
    ):
        with pytest.raises(UserError, match=told):
            read("tinyimagenet", tmp_path, HALF, *few, f"dataset.{word}")


@pytest.mark.skipif(not REAL.is_file(), reason="the real TinyImageNet (../shared/data) is not here")
def test_the_real_tinyimagenet(tmp_path):
    (tmp_path / REAL.name).symlink_to(REAL)
    config = compose("scenario=tinyimagenet_10tasks", f"data.root={tmp_path}", "dataset.train_per_class=250",
                     "dataset.md5=878d2c49a582cf90eb58283b15b8b5ab")  # fmt: skip
    scenario = build_scenario(config, SimpleNamespace(image=ImageSpec(64, (0.5,) * 3, (0.5,) * 3)))
    images = scenario.images
    assert (len(images.train), len(images.test), len(images.class_names)) == (50_000, 10_000, 200)
    assert images.train_labels.bincount().unique().tolist() == [250]
    assert images.test_labels.bincount().unique().tolist() == [50]
    assert images.class_names[:3] == ("goldfish", "European fire salamander", "bullfrog")
    assert images.digest == "1c80c5647dd9beef"
    with zipfile.ZipFile(REAL) as archive:
        first = [archive.read(f"tiny-imagenet-200/{name}") for name in ("train/n01443537/images/n01443537_0.JPEG",
                                                                         "val/images/val_0.JPEG")]  # fmt: skip
    for split, content, digest in zip(
        (images.train, images.test), first, ("d1dadb203d3d40b8", "9456565426ea9f47"), strict=True
    ):
        assert np.array_equal(photo(split, 0), miniature.pixels(content))
        assert hashlib.sha256(photo(split, 0).tobytes()).hexdigest()[:16] == digest
    assert scenario[9].classes == range(180, 200) and len(scenario[9].train) == 5000


# --- CUB, ImageNet-R --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_cub200(tmp_path, packed):
    files = miniature.cub200()
    miniature.put(files, tmp_path, "CUB_200_2011.tgz" if packed else None)
    images = read("cub200", tmp_path, *FREE)
    assert images.class_names == ("Black footed Albatross", "Laysan Albatross")
    assert images.train_labels.tolist() == [0, 1, 1] and images.test_labels.tolist() == [0, 1]
    for row, name in enumerate(("001.Black_footed_Albatross/b", "002.Laysan_Albatross/c", "002.Laysan_Albatross/e")):
        assert np.array_equal(photo(images.train, row), miniature.pixels(files[f"CUB_200_2011/images/{name}.jpg"]))
    assert not list(tmp_path.glob(".*.partial"))


def test_half_a_data_set_is_refused(tmp_path):
    miniature.lay(miniature.cub200() | miniature.cifar100() | miniature.imagenet_r(class_list("imagenet_r").wnids), tmp_path)
    for name, count, wanted in (("cub200", 5, 11788), ("cifar100", 8, 60000), ("imagenet_r", 1000, 30000)):
        with pytest.raises(UserError, match=f"{name} has {count} images, wanted are {wanted}; .*dataset.images={count}"):
            read(name, tmp_path)


def test_what_a_killed_unpacking_left_is_removed(tmp_path):
    miniature.tarred(miniature.cub200(), tmp_path / "CUB_200_2011.tgz", "w:gz")
    left = tmp_path / ".CUB_200_2011.partial" / "CUB_200_2011"
    left.mkdir(parents=True)
    (left / "images.txt").write_text("half")
    assert len(read("cub200", tmp_path, *FREE).train) == 3
    assert not left.exists()


def test_an_archive_of_something_else_is_refused(tmp_path):
    files = {name.replace("CUB_200_2011", "wrong"): content for name, content in miniature.cub200().items()}
    miniature.tarred(files, tmp_path / "CUB_200_2011.tgz", "w:gz")
    with pytest.raises(UserError, match=r"CUB_200_2011.tgz has no folder CUB_200_2011 in it"):
        read("cub200", tmp_path, *FREE)


def test_a_torn_compressed_tar_leaves_nothing(tmp_path):
    archive = miniature.tarred(miniature.cub200(), tmp_path / "CUB_200_2011.tgz", "w:gz")
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(UserError, match="is damaged or not an archive"):
        read("cub200", tmp_path, *FREE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".CUB_200_2011.lock", "CUB_200_2011.tgz"]


@pytest.mark.parametrize("packed", [True, False])
def test_imagenet_r_with_a_random_split(tmp_path, packed):
    wnids = class_list("imagenet_r").wnids
    files = miniature.imagenet_r(wnids)
    if packed:
        miniature.tarred(files, tmp_path / "imagenet-r.tar")
    else:
        miniature.lay(files, tmp_path)
    images = read("imagenet_r", tmp_path, *FREE, "dataset.split=stratified:0")
    assert (len(images.train), len(images.test)) == (800, 200)
    assert images.train_labels.bincount().unique().tolist() == [4]
    assert images.class_names[:2] == ("goldfish", "great white shark")
    again = read("imagenet_r", tmp_path, *FREE, "dataset.split=stratified:1")
    assert again.digest != images.digest and again.train.store.sizes.shape == images.train.store.sizes.shape
    assert len(list((tmp_path / "decoded" / "imagenet_r").iterdir())) == 1  # two splits, one store


def test_imagenet_r_in_folders_as_pilot_has_it(tmp_path):
    wnids = class_list("imagenet_r").wnids
    files = {name: content for name, content in miniature.imagenet_r(wnids).items() if name.endswith("jpg")}
    files = {
        name.replace("imagenet-r/", f"imagenet-r/{'test' if 'toy_10' in name else 'train'}/"): c for name, c in files.items()
    }
    miniature.lay(files, tmp_path)
    images = read("imagenet_r", tmp_path, *FREE, "dataset.split=folders")
    assert (len(images.train), len(images.test)) == (800, 200)


# --- the others -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_cifar100(tmp_path, packed):
    files = miniature.cifar100()
    miniature.put(files, tmp_path, "cifar-100-python.tar.gz" if packed else None)
    images = read("cifar100", tmp_path, *FREE)
    assert images.class_names == ("apple", "aquarium fish")
    assert images.train_labels.tolist() == [1, 0, 1, 0]
    stored = pickle.loads(files["cifar-100-python/train"])["data"]
    assert torch.equal(images.train[2, :, 1, :], torch.from_numpy(stored[2].reshape(3, 32, 32)[1]))  # row, channel, column


@pytest.mark.parametrize("content", [lambda whole: whole[:50], lambda whole: pickle.dumps(print)])
def test_a_damaged_or_dangerous_pickle_is_refused(tmp_path, content):
    miniature.lay(miniature.cifar100(), tmp_path)
    file = tmp_path / "cifar-100-python" / "test"
    file.write_bytes(content(file.read_bytes()))
    with pytest.raises(UserError, match="is damaged; delete its folder and type make data DATASET=cifar100"):
        read("cifar100", tmp_path)


def test_fashion_mnist(tmp_path):
    files = miniature.lay(miniature.fashion_mnist(), tmp_path / "fashion-mnist")
    free = ["dataset.sha256={" + ",".join(f"{f.stem}: null" for f in files.iterdir()) + "}"]
    images = read("fashion_mnist", tmp_path, *free)
    assert images.train.shape == (20, 28, 3, 28) and torch.equal(images.train[:, :, 0], images.train[:, :, 2])
    with pytest.raises(UserError, match=r"has sha256 .* wanted is"):
        read("fashion_mnist", tmp_path)
    (files / "t10k-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b torn")
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte.gz is absent or damaged"):
        read("fashion_mnist", tmp_path, *free)


@pytest.mark.skipif(not Path(PLACES[-1]).is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debian_s_fashion_mnist(tmp_path):
    images = read("fashion_mnist", tmp_path)
    assert (len(images.train), len(images.test)) == (60_000, 10_000)
    assert images.digest == "c1c352eb134ce9f4"
