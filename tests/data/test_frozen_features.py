"""What decides the place of kept features, and what keeps a change of the encoders from being served old ones."""

from pathlib import Path

import pytest
import torch

from cil.common.errors import UserError
from cil.data import frozen_features
from cil.data.transforms.views import ImageSpec, View
from cil.engine.build import make
from tests import harness

# The first numbers of a grey ramp's feature. If an encoder gives others, shelves are stale: pin them under REVISION + 1.
PINNED = {1: {"clip_tiny": [2.51858, 6.88887, 2.19513, -1.15923], "vit_tiny": [-1.25549, 1.56786, 0.23102, 3.31852]}}


@pytest.mark.parametrize("name", ["clip_tiny", "vit_tiny"])
def test_a_change_of_an_encoder_asks_for_a_revision(name):
    backbone = make(harness.compose(f"backbone={name}")["backbone"], "backbone").eval()
    ramp = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    with torch.no_grad():
        found = backbone(ramp)[0, :4]
    torch.testing.assert_close(found, torch.tensor(PINNED[frozen_features.REVISION][name]), atol=1e-4, rtol=1e-4)


def place(root, encoder: str = "a", side: int = 4, level: int = 0, crop: str = "whole") -> frozen_features.Place:
    view = View(ImageSpec(side, (0.5,) * 3, (0.5,) * 3), crop=crop)
    return frozen_features.Shelf(root, {"settings": encoder}).place(torch.full((5, 4, 3, 4), level, dtype=torch.uint8), view)


def test_whatever_decides_a_feature_decides_its_place(tmp_path, monkeypatch):
    folders = [place(tmp_path, **more).folder for more in
               ({}, {"encoder": "b"}, {"side": 8}, {"level": 1}, {"crop": "centre"})]  # fmt: skip
    for constant in ("REVISION", "BLOCK"):
        with monkeypatch.context() as during:
            during.setattr(frozen_features, constant, getattr(frozen_features, constant) + 1)
            folders.append(place(tmp_path).folder)
    assert len(set(folders)) == 7
    assert place(tmp_path).folder == folders[0]


def test_a_block_is_made_once_and_leftovers_go(tmp_path):
    one, made = place(tmp_path), []
    (one.folder / ".00000.safetensors.1.partial").write_bytes(b"torn")
    for _ in range(2):
        found = one.block(0, lambda: made.append(1) or torch.ones(5, 2))
    assert torch.equal(found, torch.ones(5, 2)) and made == [1]
    assert sorted(file.name for file in one.folder.iterdir()) == ["00000.safetensors", "lock", "made.json"]


def test_a_folder_that_cannot_be_used_is_told_with_its_setting():
    with pytest.raises(UserError, match=r"data\.features=DIR"):
        place(Path("/proc/nothing"))
