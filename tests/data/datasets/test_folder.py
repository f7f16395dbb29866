"""A folder of photographs of one's own, in every form in which it may come."""

import numpy as np
import pytest

from cil.common.errors import UserError
from tests.data.datasets import miniature
from tests.data.datasets.miniature import photo, read


def birds() -> dict[str, bytes]:
    places = [f"{side}/{name}/{k}" for side in ("train", "test") for name in ("great_tit", "crow") for k in range(3)]
    return {f"{place}.jpg": miniature.jpeg(int(place[-1]), (30 + int(place[-1]), 30)) for place in places}


@pytest.mark.parametrize("packed", [True, False])
def test_any_folder_of_folders(tmp_path, packed):
    files = birds()
    if packed:
        miniature.zipped({f"birds/{name}": content for name, content in files.items()}, tmp_path / "birds.zip")
    else:
        miniature.lay(files, tmp_path / "birds")
    images = read("folder", tmp_path, "dataset.path=birds")
    assert images.class_names == ("crow", "great tit") and images.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(photo(images.test, 4), miniature.pixels(files["test/great_tit/1.jpg"]))


def test_a_folder_with_lists(tmp_path):
    pairs = {
        "a": ("crow/0", "great_tit/2"),
        "b": ("crow/1", "great_tit/0"),
        "both": ("crow/0", "great_tit/0"),
        "none": ("crow/9",),
    }
    lists = {f"{name}.txt": "".join(f"train/{place}.jpg\n" for place in places).encode() for name, places in pairs.items()}
    files = birds() | lists
    miniature.lay(files, tmp_path / "birds")
    listed = ("dataset.path=birds", "dataset.train=a.txt/")
    images = read("folder", tmp_path, *listed, "dataset.test=b.txt")
    assert images.test_labels.tolist() == [0, 1]
    with pytest.raises(UserError, match=r"1 images are in training and test, first train/crow/0.jpg"):
        read("folder", tmp_path, *listed, "dataset.test=both.txt")
    with pytest.raises(UserError, match=r"names 1 images that are not there, first train/crow/9.jpg"):
        read("folder", tmp_path, *listed, "dataset.test=none.txt")


def test_a_folder_without_a_test_is_divided_the_same_way_each_time(tmp_path):
    miniature.lay(birds(), tmp_path / "birds")
    words = ("dataset.path=birds", "dataset.test=null", "dataset.share=0.67")
    images, again, other = (read("folder", tmp_path, *words, f"dataset.seed={seed}") for seed in (0, 0, 1))
    assert images.train_labels.tolist() == [0, 0, 1, 1] and images.test_labels.tolist() == [0, 1]
    assert images.digest == again.digest != other.digest
    with pytest.raises(UserError, match=r"dataset.share=0.1 of the 3 images of class crow leaves none for training or"):
        read("folder", tmp_path, "dataset.path=birds", "dataset.test=null", "dataset.share=0.1")


@pytest.mark.parametrize("form", ["folder", "zip", "zip with a folder around", "zip of another name"])
def test_one_folder_per_class_needs_no_settings(tmp_path, form):
    around = {"folder": "birds/", "zip": "", "zip with a folder around": "birds/", "zip of another name": "pictures/"}[form]
    files = {f"{around}{name}/{row}.jpg": miniature.jpeg(row, (16, 16)) for name in ("crow", "gull") for row in range(10)}
    miniature.lay(files, tmp_path) if form == "folder" else miniature.zipped(files, tmp_path / "birds.zip")
    images = read("folder", tmp_path, "dataset.path=birds")
    assert images.class_names == ("crow", "gull") and (len(images.train), len(images.test)) == (16, 4)


def test_what_is_no_class_and_no_list_is_told(tmp_path):
    miniature.lay({f"birds/{name}/{row}.jpg": miniature.jpeg(row) for name in ("crow", "gull") for row in range(3)}, tmp_path)
    with pytest.raises(
        UserError, match=r"neither a folder of images nosuch.txt in the dataset nor a list; type dataset.train="
    ):
        read("folder", tmp_path, "dataset.path=birds", "dataset.train=nosuch.txt")
    (tmp_path / "birds" / ".ipynb_checkpoints").mkdir()
    assert len(read("folder", tmp_path, "dataset.path=birds").class_names) == 2
    (tmp_path / "birds" / "owl" / "old").mkdir(parents=True)
    with pytest.raises(UserError, match=r"birds/owl has no files, so it is no class; put images into it, or delete it"):
        read("folder", tmp_path, "dataset.path=birds")
    miniature.lay({"birds/owl/0.jpg": miniature.jpeg(0)}, tmp_path)
    with pytest.raises(UserError, match="birds: class owl has one image, none of which is left for the test; add another"):
        read("folder", tmp_path, "dataset.path=birds")
