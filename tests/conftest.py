"""A small glyph scenario, tiny untrained backbones, one torch thread, a temporary run folder."""

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

from cil.contract import characters, three_tasks  # noqa: E402
from cil.data.images import Images  # noqa: E402
from cil.data.scenario import Scenario  # noqa: E402
from cil.data.transforms.views import ImageSpec  # noqa: E402
from tests import harness  # noqa: E402


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def images(data_root) -> Images:
    """Six characters, 18 training and 6 test images each."""
    return characters(data_root)


@pytest.fixture(scope="session")
def scenario(images) -> Scenario:
    """Three tasks of two characters."""
    return three_tasks(images, ImageSpec(32, (0.5,) * 3, (0.5,) * 3))


@pytest.fixture
def outputs(tmp_path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def compose(data_root, outputs):
    """Words of a command line → the plain configuration, on a small data set and an untrained backbone."""

    def composed(*words: str) -> dict:
        return harness.compose(f"outputs={outputs}", f"data.root={data_root}", *harness.SMALL, *words)

    return composed
