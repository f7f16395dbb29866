"""Measures after each task how far attention reaches, on the test images of the first task (LPA, ICME 2023, section 3)."""

import torch

from cil.capabilities import HasMaps
from cil.data.images import LabelledImages
from cil.modules.growing.attention import nonlocality


@torch.inference_mode()
def facts(backbone: torch.nn.Module, images: LabelledImages, batch_size: int, device: torch.device) -> dict:
    """Return "nonlocality": for each block the mean attention distance in patches. Empty if there are no attention maps."""
    backbone.eval()
    if not isinstance(backbone, HasMaps):
        return {}
    found = []
    for batch in images.batches(batch_size, device):
        found.append(torch.stack([nonlocality(maps.float(), backbone.side).mean(1) for maps in backbone.maps(batch.images)]))
    return {"nonlocality": [round(value, 4) for value in torch.cat(found, 1).mean(1).tolist()]}
