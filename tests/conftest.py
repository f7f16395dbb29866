"""A small glyph scenario, tiny untrained backbones, one torch thread, a temporary run folder."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

from cil.data.datasets.glyphs import glyphs  # noqa: E402
from cil.data.images import Images  # noqa: E402
from cil.data.scenario import Scenario  # noqa: E402
from cil.data.transforms.views import ImageSpec, views  # noqa: E402
from tests import harness  # noqa: E402

JITTER = dict(rotation=0.1, scale=0.1, shear=0.1, shift=1.0, noise=0.02)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def images(data_root) -> Images:
    """Six characters, 18 training and 6 test images each."""
    made = glyphs(str(data_root), train_per_class=18, test_per_class=6, jitter=JITTER, seed=0)
    train, test = made.train_labels < 6, made.test_labels < 6
    return replace(made, train=made.train[train], train_labels=made.train_labels[train], test=made.test[test],
                   test_labels=made.test_labels[test], class_names=made.class_names[:6])  # fmt: skip


@pytest.fixture(scope="session")
def scenario(images) -> Scenario:
    """Three tasks of two characters."""
    pair = views(ImageSpec(32, (0.5,) * 3, (0.5,) * 3), train={"crop": "whole"}, test={"crop": "whole"})
    return Scenario(images, pair, name="small", tasks=3, first=None, order="numpy:1993")


@pytest.fixture
def outputs(tmp_path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def compose(data_root, outputs):
    """Words of a command line → the plain configuration, on a small data set and an untrained backbone."""

    def composed(*words: str) -> dict:
        return harness.compose(f"outputs={outputs}", f"data.root={data_root}", *harness.SMALL, *words)

    return composed
