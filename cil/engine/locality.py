"""How far patches look, after each task (section 3 of LPA, ICME 2023): on the tests of the first task, as training goes on."""

import torch

from cil.capabilities import HasMaps
from cil.data.images import LabelledImages
from cil.modules.growing.attention import nonlocality


@torch.inference_mode()
def facts(backbone: torch.nn.Module, images: LabelledImages, batch_size: int, device: torch.device) -> dict:
    """`nonlocality`: of each block the mean distance in patches at which a patch looks, over images and heads."""
    if not isinstance(backbone, HasMaps):
        return {}
    backbone.eval()
    found = []
    for batch in images.batches(batch_size, device):
        found.append(torch.stack([nonlocality(maps.float(), backbone.side).mean(1) for maps in backbone.maps(batch.images)]))
    return {"nonlocality": [round(value, 4) for value in torch.cat(found, 1).mean(1).tolist()]}
