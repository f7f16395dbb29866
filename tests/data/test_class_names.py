"""Words for the classes of a dataset: they reach a text method and its identity, and a wrong file is one line."""

import json
import re

import pytest
import torch

from cil.common.errors import UserError
from cil.data.class_names import named
from cil.data.images import Images
from cil.data.registry.classes import class_list
from cil.engine.build import dataset
from cil.engine.missing import missing
from cil.launch.run import verified
from cil.runs.run_folder import address
from tests import harness
from tests.data.datasets import miniature

OWN = ("crow", "house finch", "gull")


@pytest.fixture
def images() -> Images:
    pixels, labels = torch.zeros(3, 2, 3, 2, dtype=torch.uint8), torch.arange(3)
    return Images("birds", pixels, labels, pixels, labels, OWN)


@pytest.fixture
def file(tmp_path):
    def write(text: str) -> str:
        (tmp_path / "names.txt").write_text(text)
        return str(tmp_path / "names.txt")

    return write


@pytest.mark.parametrize("text", [
    "a crow\n\nsmall finch\nsea bird\n",
    "gull: sea bird\nhouse_finch: small finch\ncrow:  a crow",
])  # fmt: skip
def test_a_name_per_line_or_a_line_per_class(images, file, text):
    made = named(images, file(text))
    assert made.class_names == ("a crow", "small finch", "sea bird")
    assert made.digest != images.digest and made.listing != images.listing


def test_words_may_have_colons(images, file):
    assert named(images, file("crow: bird: black\nhouse finch: x\ngull: y")).class_names[0] == "bird: black"


@pytest.mark.parametrize(("text", "line"), [
    ("a\nb\n", "has 2 names, birds has 3 classes; write one name per line"),
    ("crow: a\nb\n", "has 2 names, of which 1 have a colon, birds has 3 classes"),
    ("crow: a\ngul: b\nhouse finch: c", "names a class gul that there is not; did you mean gull?"),
    ("crow: a\ncrow: b\ngull: c\nhouse finch: d", "has two lines for the class crow; remove one"),
    ("crow: a\nhouse finch: b", "has no words for 1 of 3 classes, first gull; add a line `gull: …`"),
    ("crow: a\nhouse finch:\ngull: b", "has no words for 1 of 3 classes, first house finch"),
    ("", "has 0 names, birds has 3 classes"),
])  # fmt: skip
def test_a_wrong_file_is_one_line(images, file, text, line):
    with pytest.raises(UserError, match=re.escape(line)):
        named(images, file(text))
    with pytest.raises(UserError, match="is no text file that can be read"):
        named(images, "nowhere.txt")


def test_a_class_unlike_any_of_many_is_told_some_of_them(images, file):
    own = tuple(f"bird {number}" for number in range(50))
    many = Images("birds", torch.zeros(50, 2, 3, 2), torch.arange(50), images.test, torch.arange(50), own)
    with pytest.raises(UserError, match="names a class xyz that there is not; choose one of 50, such as bird 0, bird 1, "):
        named(many, file("xyz: a word"))


def test_a_text_method_reads_them_and_a_finished_run_knows_them(compose, file):
    words = [f"word {number}" for number in range(100)]
    plain = compose("method=continual_clip", "scenario.tasks=2")
    assert "names" not in plain["dataset"]
    config = compose("method=continual_clip", "scenario.tasks=2", f"dataset.names={file(chr(10).join(words))}")
    assert address(config) != address(plain)
    one, two = (harness.execute(each) for each in (plain, config))
    assert json.loads((one.path / "summary.json").read_text())["data_listing"] == ""
    digests = [run.summary()["identity"]["data_digest"] for run in (one, two)]
    assert digests[0] != digests[1]
    texts = [run.load(run.newest)["method"]["texts"] for run in (one, two)]
    assert not torch.equal(*texts)
    verified(two, config)
    file("\n".join([*words[:-1], "another"]))
    with pytest.raises(UserError, match="the images have changed since"):
        verified(two, config)


def test_a_dataset_that_knows_several_names_takes_one_of_them_or_a_file(tmp_path, file):
    """ImageNet-R and ImageNet100 have a setting of the same name."""
    known = class_list("imagenet_r")
    miniature.lay(miniature.imagenet_r(known.wnids), tmp_path)
    words = ("scenario=imagenet_r_10tasks", "size=tiny", "dataset.split=stratified:0", "dataset.images=null")
    words = (*words, f"data.root={tmp_path}")
    for naming in ("readme", "openai"):
        config = harness.compose(*words, f"dataset.names={naming}")
        assert missing(config) == []
        assert dataset(config).class_names == tuple(name.replace("_", " ") for name in known.named(naming))
    own = file("\n".join(f"word {number}" for number in range(200)))
    assert dataset(harness.compose(*words, f"dataset.names={own}")).class_names[199] == "word 199"
    assert missing(harness.compose(*words, "dataset.names=absent.txt"))[0].startswith("dataset.names=absent.txt is not a file")
    with pytest.raises(UserError, match=r"class names reedme are not known for imagenet_r; did you mean readme\?"):
        dataset(harness.compose(*words, "dataset.names=reedme"))
