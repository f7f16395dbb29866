"""Where decoded photographs lie, and when they are decoded again."""

import os
import re
import subprocess

import pytest
import torch
from PIL import Image

from cil.common.errors import UserError
from cil.data.image_store import Size
from cil.engine.build import build_scenario, checked_images, make
from cil.runs.run_folder import digest
from tests.data.datasets import miniature
from tests.data.test_image_store import files, photos  # noqa: F401
from tests.harness import compose


def test_a_photograph_that_was_replaced_is_decoded_again(tmp_path):
    """Also by one of as many bytes."""

    from tests.data.datasets.miniature import read

    for side in ("train", "test"):
        (tmp_path / "birds" / side / "crow").mkdir(parents=True)
        for grey in (10, 200):
            file = tmp_path / "birds" / side / "crow" / f"{grey}.png"
            Image.new("RGB", (8, 8), (grey,) * 3).save(file, compress_level=0)
    before = read("folder", tmp_path, "dataset.path=birds")
    Image.new("RGB", (8, 8), (77,) * 3).save(file, compress_level=0)
    os.utime(file, ns=(1, 1))
    after = read("folder", tmp_path, "dataset.path=birds")
    assert before.digest != after.digest and int(after.test[torch.tensor([1])][0, 0, 0, 0]) == 77


def read_only(folder) -> bool:
    """Whether `folder` could be made a file system that nobody can write to, as root could write in spite of permissions."""
    commands = (["mount", "--bind", folder, folder], ["mount", "-o", "remount,ro,bind", folder])
    return all(subprocess.run(command, capture_output=True).returncode == 0 for command in commands)


def test_a_read_only_data_folder_works_with_another_folder_for_decoded_photographs(tmp_path):
    root, kept = tmp_path / "data", tmp_path / "kept"
    miniature.lay({f"birds/{name}/{n}.jpg": miniature.jpeg(n) for name in ("crow", "gull") for n in range(5)}, root)
    miniature.zipped(
        {f"fish/{name}/{n}.jpg": miniature.jpeg(n) for name in ("cod", "ray") for n in range(5)}, root / "fish.zip"
    )
    if not read_only(root):
        pytest.skip("only root may mount a read-only file system here")
    try:
        for path in ("birds", "fish"):
            words = ("scenario=folder", f"dataset.path={path}", f"data.root={root}", "method=class_mean", "backbone=vit_tiny",
                     "scenario.tasks=2")  # fmt: skip
            sentence = (
                f"decoded photographs cannot be kept in {root}/decoded/folder_{path} (it is read-only); type data.decoded="
            )
            with pytest.raises(UserError, match=re.escape(sentence)):
                checked_images(compose(*words))
            config = compose(*words, f"data.decoded={kept}")
            backbone = make(config["backbone"], "backbone", root=None)
            assert len(build_scenario(config, backbone)[0].train_plain.batch(torch.arange(2)).images) == 2
            assert list((kept / f"folder_{path}").glob("*/*.part"))
            with pytest.raises(UserError, match=r"\(Read-only file system\); type data\.decoded=DIR"):
                checked_images(config).train.decoded(Size())
    finally:
        subprocess.run(["umount", "-l", root], check=False)


def test_the_folder_of_decoded_photographs_changes_no_address():
    assert digest(compose("data.decoded=elsewhere")) == digest(compose())
    assert compose("data.root=disk")["data"]["decoded"] == "disk/decoded"


def test_the_digest_is_that_of_the_pixels_and_their_order(files, tmp_path):  # noqa: F811
    whole = photos(files, tmp_path)
    some = whole.take(torch.tensor([1, 3]))
    (tmp_path / "other").mkdir()
    again = photos({name: files[name] for name in ("01.jpg", "03.jpg")}, tmp_path / "other")
    assert some.decoded(Size()).digest() == again.decoded(Size()).digest()
    assert whole.take(torch.tensor([3, 1])).decoded(Size()).digest() != some.decoded(Size()).digest()


def test_a_smaller_store_is_another_store(files, tmp_path):  # noqa: F811
    listing = photos(files, tmp_path)
    small = listing.decoded(Size(40))
    assert small.store.sizes.min(1).tolist() == [40, 40, 40, 40, 40, 31]  # never enlarged
    assert listing.decoded(Size()).digest() != small.digest()
    named = photos(files, tmp_path, size=Size(40))
    assert named.decoded(Size()).digest() == small.digest()  # what the data set was told goes before what a view needs
