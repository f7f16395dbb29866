"""The folders train and test of PILOT's and C3Box's archives: every packing, every dataset, names that belong to them."""

import re

import numpy as np
import pytest

from cil.commands import check_data, fetch_data
from cil.common.errors import UserError
from cil.data.datasets.places import PREPARED
from cil.data.registry.classes import class_list, class_names, known_names
from cil.engine.build import make
from tests.data.datasets import miniature
from tests.data.datasets.miniature import photo, read
from tests.harness import compose, options

FREE = ("dataset.md5=null", "dataset.images=null")
NUMBERS = [str(number) for number in range(10, 60)]  # VTAB's classes
UNDERSCORES = {"objectnet", "stanford_cars", "food101", "ucf101", "sun397"}


def folders_of(name: str) -> list[str]:
    """Folders as the archives may have them: wnids, numbers, or the words of C3Box."""
    if name == "imagenet_a":
        return list(class_list(name).wnids)
    if name == "cub200_pilot":
        return [f"{number + 1:03d}.{words.replace(' ', '_')}" for number, words in enumerate(class_names(name))]
    if name in known_names():
        return [word.replace(" ", "_" if name in UNDERSCORES else " ").replace("/", "-") for word in class_names(name)]
    return [str(number) for number in range(4, 4 + PREPARED[name].classes)]


@pytest.mark.parametrize("layout", ["folder", "a folder around", "zip", "zip with folders around"])
def test_any_packing_gives_the_same_images(tmp_path, layout):
    top = {"folder": "vtab/", "a folder around": "vtab/vtab-cil/", "zip": "", "zip with folders around": "vtab-cil/vtab/"}[
        layout
    ]
    files = miniature.prepared(NUMBERS, top)
    if layout.startswith("zip"):
        miniature.zipped(files | {"__MACOSX/train/10/._a.jpg": b"x"}, tmp_path / "vtab.zip")
    else:
        miniature.lay(files, tmp_path)
    images = read("vtab", tmp_path, *FREE)
    assert images.class_names == tuple(NUMBERS) and images.train_labels.tolist() == [k // 2 for k in range(100)]
    assert images.test_labels.tolist() == list(range(50))
    assert np.array_equal(photo(images.train, 3), miniature.pixels(files[f"{top}train/11/b.JPEG"]))
    assert np.array_equal(photo(images.test, 49), miniature.pixels(files[f"{top}test/59/c.png"]))
    assert images.digest == read("vtab", miniature.lay(miniature.prepared(NUMBERS, "vtab/"), tmp_path / "again"), *FREE).digest


@pytest.mark.parametrize("top", ["objectnet/", "", "other/objectnet/"])
def test_a_compressed_archive_is_unpacked_whatever_its_top_folder(tmp_path, top):
    miniature.tarred(miniature.prepared(folders_of("objectnet"), top), tmp_path / "objnet.tgz", "w:gz")
    images = read("objectnet", tmp_path, *FREE)
    assert images.class_names[:2] == ("air freshener", "alarm clock") and len(images.train) == 400
    assert (tmp_path / "objectnet").is_dir() and not list(tmp_path.glob(".*.partial"))


@pytest.mark.parametrize("name", PREPARED)
def test_every_dataset_has_its_classes_names_and_place(tmp_path, name, capsys):
    assert name in options("dataset") and compose(f"dataset={name}")["dataset"]["name"] == PREPARED[name].key == name
    folder, archive = PREPARED[name].any_of
    folders = folders_of(name)
    miniature.lay(miniature.prepared(folders, f"{folder}/"), tmp_path)
    assert check_data.main([name, f"data.root={tmp_path}", *FREE]) == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(f"{name} "))
    count = PREPARED[name].classes
    assert row[1:6] == [str(count), str(2 * count), "2", str(count), "1"]
    assert fetch_data.main([name]) == 0
    told = capsys.readouterr().out
    assert f"as {archive}, or unpacked as {folder}/train/<class>/" in told and "terms are: " in told
    if name in known_names():
        images = make(compose(f"dataset={name}", *FREE)["dataset"], "dataset", root=str(tmp_path))
        assert [re.sub(r"\W", "", word) for word in images.class_names] == [
            re.sub(r"^\d{3}\.|[\W_]", "", folder) for folder in sorted(folders)
        ], "a name is given to another folder"


def test_names_of_other_folders_are_not_given(tmp_path):
    """Another hundred of the 101 classes of Food-101: from the second on, every name would be that of the class before."""
    other = [*folders_of("food101")[1:], "waffles"]
    miniature.lay(miniature.prepared(other, "food101/"), tmp_path)
    line = r"food101: dataset.names=c3box calls folder baby_back_ribs apple pie; .*type dataset.names=folders"
    with pytest.raises(UserError, match=line):
        read("food101", tmp_path, *FREE)
    assert read("food101", tmp_path, *FREE, "dataset.names=folders").class_names[-1] == "waffles"
    miniature.lay(miniature.prepared(sorted(class_list("imagenet_r").wnids), "imagenet-a/"), tmp_path)
    with pytest.raises(UserError, match=r"imagenet_a: dataset.names=openai calls folder n01443537 stingray"):
        read("imagenet_a", tmp_path, *FREE)
    with pytest.raises(UserError, match=r"class names c3box are not known for imagenet_a; choose from folders, lemma, openai"):
        read("imagenet_a", tmp_path, *FREE, "dataset.names=c3box")


def test_what_is_not_whole_is_told(tmp_path):
    files = miniature.prepared(NUMBERS, "vtab/")
    miniature.lay(files, tmp_path / "whole")
    with pytest.raises(
        UserError, match=r"vtab has 150 images, wanted are 10415; unpack or fetch it again, or type dataset.images"
    ):
        read("vtab", tmp_path / "whole", "dataset.md5=null")
    miniature.lay({path: content for path, content in files.items() if "test/30/" not in path}, tmp_path / "part")
    with pytest.raises(UserError, match=r"vtab has 50 classes for training and 49 for the test, wanted are the same 50"):
        read("vtab", tmp_path / "part", *FREE)
    (tmp_path / "torn").mkdir()
    miniature.zipped(files, tmp_path / "torn" / "vtab.zip")
    with pytest.raises(UserError, match=r"vtab.zip has md5 .*the official one has a9c37bde6105…"):
        read("vtab", tmp_path / "torn")
    with pytest.raises(UserError, match=r"is not there; type make data DATASET=vtab"):
        read("vtab", tmp_path)
    with pytest.raises(UserError, match=r"dataset.name=vtap is not known; did you mean vtab\?"):
        read("vtab", tmp_path, "dataset.name=vtap")


def test_names_in_the_registry_are_of_the_datasets():
    assert set(known_names()) <= set(PREPARED)
    for name in known_names():
        assert len(set(class_names(name))) == PREPARED[name].classes
    assert [class_list("imagenet_a").wnids[label] for label in (0, 199)] == ["n01498041", "n12267677"]
    assert len(class_list("imagenet_a").wnids) == 200
