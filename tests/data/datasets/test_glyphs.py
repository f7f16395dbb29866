import unicodedata
from collections import Counter

import numpy as np
import pytest
import torch

from cil.data.datasets import glyphs
from tests.harness import compose


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    config = dict(compose("scenario=glyphs_10tasks")["dataset"])
    config.pop("_target_")
    root = str(tmp_path_factory.mktemp("glyphs"))
    return glyphs.glyphs(root, **config), root, config


def test_a_hundred_characters_with_words_for_names(benchmark):
    images, _, _ = benchmark
    assert len(set(images.class_names)) == 100
    assert all(name == unicodedata.name(chr(p)).lower() for p, name in zip(glyphs.code_points("classes"), images.class_names))
    assert images.train.shape == (10_000, 32, 3, 32) and images.test.shape == (3_000, 32, 3, 32)
    assert images.train.dtype == torch.uint8
    assert set(Counter(images.train_labels.tolist()).values()) == {100}
    assert set(Counter(images.test_labels.tolist()).values()) == {30}


def test_the_same_pixels_on_every_call_cached_or_not(benchmark, tmp_path):
    images, root, config = benchmark
    cached, again = glyphs.glyphs(root, **config), glyphs.glyphs(str(tmp_path), **config)
    assert cached.digest == again.digest == images.digest
    assert glyphs.glyphs(root, **{**config, "seed": 1}).digest != images.digest


def test_pre_training_characters_are_others():
    base, classes = set(glyphs.code_points("base")), set(glyphs.code_points("classes"))
    assert len(base) > 1_400 and len(classes) == 100 and not base & classes
    words = Counter(word for p in base for word in set(glyphs.name(p).split()))
    assert all(words[word] >= 3 for p in classes for word in glyphs.name(p).split())


def test_faces_of_the_test_are_never_trained_on():
    assert len(set(glyphs.TRAIN_FACES)) == 9 and len(set(glyphs.TEST_FACES)) == 3
    assert not set(glyphs.TRAIN_FACES) & set(glyphs.TEST_FACES)


def test_no_two_classes_look_alike():
    for face in ("DejaVuSans", "DejaVuSerif"):
        ink = np.stack([glyphs.draw(p, face) for p in glyphs.code_points("classes")]).reshape(100, -1).astype(int)
        for place in range(100):
            difference = np.abs(ink - ink[place]).sum(1) / np.maximum(ink.sum(1), ink[place].sum())
            assert np.sort(difference)[1] > 0.03


def test_without_jitter_a_drawing_is_the_drawing():
    mask = glyphs.draw(ord("W"), "DejaVuSans")
    still = glyphs.Jitter(rotation=0, scale=0, shear=0, shift=0, noise=0)
    warped = glyphs._warp(mask[None], still, np.random.RandomState(0))[0]
    plain = mask.reshape(32, 2, 32, 2).mean((1, 3)) / 255
    assert np.abs(warped - plain).max() < 0.01
