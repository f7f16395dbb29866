"""CLIP with a text context and image prompts, against values of PGP's released model (prompt specification, section 15.7)."""

import math

import pytest
import torch
import torch.nn.functional as F

from cil.backbones.clip import CLIP, Trunk
from cil.backbones.packed_text import encode
from cil.data.transforms.views import ImageSpec
from tests.reference import close, fill

BLOCK = ("attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight", "attn.out_proj.bias", "ln_1.weight", "ln_1.bias",
         "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias", "ln_2.weight", "ln_2.bias")  # fmt: skip
START, FIRST, STOP, END = 1, 5, 3, 49  # tokens: start, class c is FIRST + c, full stop, end of text


@pytest.fixture(scope="module")
def clip() -> CLIP:
    """Two blocks a tower, one head; tensors are numbered in the order in which OpenAI's model registers them."""
    vision = dict(image_size=32, patch_size=8, width=64, layers=2, head_width=64)
    text = dict(context_length=12, vocab_size=50, width=64, heads=1, layers=2)
    trunk = Trunk(embed_dim=32, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval().requires_grad_(False)
    blocks = [f"transformer.resblocks.{n}.{part}" for n in range(2) for part in BLOCK]
    visual = ["class_embedding", "positional_embedding", "proj", "conv1.weight", "ln_pre.weight", "ln_pre.bias", *blocks,
              "ln_post.weight", "ln_post.bias"]  # fmt: skip
    names = ["positional_embedding", "text_projection", "logit_scale", *(f"visual.{name}" for name in visual), *blocks,
             "token_embedding.weight", "ln_final.weight", "ln_final.bias"]  # fmt: skip
    assert set(names) == set(trunk.state_dict()) and names.index("token_embedding.weight") == 59
    state = {}
    for number, name in enumerate(names, 1):
        norm = name.split(".")[-2].startswith("ln_") if "." in name else False
        scale, offset = (0.05, 0.0) if name.endswith("bias") else (0.1, 1.0) if norm else (0.2, 0.0)
        state[name] = fill(number, *trunk.state_dict()[name].shape, scale=scale, offset=offset).float()
    trunk.load_state_dict(state | {"logit_scale": torch.tensor(math.log(20))})
    return CLIP(trunk, ImageSpec(32, (0.0,) * 3, (1.0,) * 3))


def test_a_context_and_image_prompts(clip):
    context = fill(201, 1, 4, 64, scale=0.2).float().requires_grad_()
    prompts = fill(202, 1, 5, 64, scale=0.2).float().requires_grad_()
    batch = (fill(900, 3, 3, 32, 32) + 1) / 2 * torch.arange(1, 4).view(3, 1, 1, 1) / 3
    texts = F.normalize(encode(clip.trunk, context, START, [[FIRST + c, STOP, END] for c in range(3)])[0], dim=1)

    def logits(**named) -> torch.Tensor:
        return clip.logit_scale * F.normalize(clip(batch.float(), **named), dim=1) @ texts.T

    wanted = [4.179254, 4.067496, 3.061690, 4.068954, 3.966627, 2.863328, 4.330734, 4.212797, 3.175722]
    close(logits(prompts=prompts), wanted, 1e-4)
    loss = F.cross_entropy(logits(prompts=prompts), torch.arange(3))
    close(loss, 1.211703, 1e-5)
    loss.backward()
    close(context.grad.norm(), 1.056642, 1e-4)
    close(prompts.grad.norm(), 0.218340, 1e-4)
    wanted = [5.138421, 5.056577, 4.033727, 5.118221, 5.054580, 3.894776, 5.302367, 5.221532, 4.118828]
    close(logits(), wanted, 1e-4)
