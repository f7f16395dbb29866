"""AttriCLIP against the values of the released module on a toy text tower (AttriCLIP specification, section 12)."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cil.backbones.clip import CLIP, Trunk
from cil.backbones.packed_text import encode
from cil.common.switches import grouped
from cil.data.images import Batch
from cil.data.transforms.views import ImageSpec
from cil.methods.attriclip import AttriCLIP
from tests.reference import close

RELEASED = dict(cosine_choice=False, sum_keys=False, ordered_pairs=True, placeholders=True)
PAPER = dict(cosine_choice=True, sum_keys=True, ordered_pairs=False, placeholders=False)
NAMES = ("apple", "aquarium_fish", "bed")
BLOCK = ("ln_1.weight", "ln_1.bias", "attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight", "attn.out_proj.bias",
         "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias")  # fmt: skip


def u(number: int, *shape: int) -> torch.Tensor:
    i = np.arange(math.prod(shape), dtype=np.uint64)
    h = (i * 2654435761 + number * 40503 + 12345) % 2**32
    h = (h ^ (h >> np.uint64(15))) * 2246822519 % 2**32
    h = h ^ (h >> np.uint64(13))
    return torch.from_numpy(h.astype(np.float64) / 2**31 - 1).float().view(shape)


class Given(CLIP):
    """Its images are features already."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.fixture
def clip() -> CLIP:
    vision = dict(image_size=32, patch_size=32, width=64, layers=1, head_width=64)
    trunk = Trunk(embed_dim=64, vision_cfg=vision, quick_gelu=True,
                  text_cfg=dict(context_length=77, vocab_size=49408, width=64, heads=1, layers=2))  # fmt: skip
    numbers = {"token_embedding.weight": 0, "positional_embedding": 1, "ln_final.weight": 26, "ln_final.bias": 27,
               "text_projection": 28}  # fmt: skip
    numbers |= {f"transformer.resblocks.{b}.{part}": 2 + 12 * b + n for b in range(2) for n, part in enumerate(BLOCK)}
    state = trunk.state_dict() | {"logit_scale": torch.tensor(math.log(1 / 0.07))}
    for name, number in numbers.items():
        drawn = u(number, *state[name].shape)
        norm, bias = "ln_" in name and name.endswith("weight"), name.endswith("bias")
        state[name] = 1 + 0.1 * drawn if norm else (0.1 if bias else 0.05 if number < 2 else 0.2) * drawn
    trunk.load_state_dict(state)
    return Given(trunk, ImageSpec(32, (0.0,) * 3, (1.0,) * 3)).eval().requires_grad_(False)


def method(clip, train_text: bool = False, pristine_tests: bool = False, **switches) -> AttriCLIP:
    settings = dict(bank=5, length=4, phrase=None, top_k=2, key_loss="cosine", margin=0.2, key_weight=0.7,
                    diversity_weight=0.3, train_text=train_text, pristine_tests=pristine_tests,
                    underscores=False, half_bank=False, **RELEASED | switches)  # fmt: skip
    made = AttriCLIP(clip, **grouped(AttriCLIP, settings))
    made.keys.data, made.prompts.data = 0.03 * u(29, 5, 64), 0.03 * u(30, 5, 4, 64)
    made.names = list(NAMES)
    return made


def step(made: AttriCLIP, *losses: str) -> dict[str, torch.Tensor]:
    batch = Batch(F.normalize(u(31, 3, 64), dim=1), torch.arange(3), torch.arange(3))
    found = made.training_step(batch, SimpleNamespace(task=SimpleNamespace(classes=range(3))))
    sum(found[name] for name in losses or found).backward()
    return found


def norms(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).norm(dim=1)


def test_the_filling():
    close(u(0, 4), [-0.94170001, 0.93331258, 0.18049334, 0.55594957], 1e-7)
    close(u(7, 1001)[1000], -0.06313794, 1e-7)
    close(u(0, 16814 * 64 + 1)[-1], 0.74773594, 1e-7)


def test_where_texts_end(clip):
    """11, 13 and 11 behind a context of 8, and 10 for a prompt alone before the words of the other."""
    ends = [1 + 8 + len(clip.tokenizer.encode(f"{name}.")) for name in NAMES]
    assert ends == [11, 13, 11] and 1 + 8 + len(clip.tokenizer.encode(".")) == 10
    tokens = clip.tokenizer([f"{'x ' * 8}{name}." for name in NAMES])
    assert tokens.argmax(1).tolist() == ends


def test_cosines_between_prompts(clip):
    alone = method(clip).alone().detach()
    close((alone @ alone.T)[0], [1, 0.6843, 0.8706, 0.9332, 0.8368], 1e-4)
    short = method(clip, placeholders=False)
    start, end = clip.tokenizer.sot_token_id, clip.tokenizer.eot_token_id
    bare = F.normalize(encode(clip.trunk, short.prompts, start, [[end]])[:, 0], dim=1)  # without the full stop
    close((bare @ bare.T).abs().triu(1).sum().detach() / 10, 0.759520, 2e-6)


def test_the_released_losses(clip):
    made = method(clip)
    found = step(made)
    features = F.normalize(u(31, 3, 64), dim=1)
    assert made.choose(features).tolist() == [[0, 4], [4, 0], [1, 2]]
    assert made.picks.tolist() == [2, 1, 1, 0, 2]
    wanted = [2.399375, 2.825680, 2.146487, 0.955869, 0.831055, 0.870347, -2.742524, -2.381480, -2.787697]
    close(made.predict(features), wanted, 1e-5)
    close(found["ce"], 1.205755, 2e-6)
    close(found["keys"] / 0.7, 0.854913, 2e-6)
    close(found["diversity"] / 0.3, 0.845148, 2e-6)
    close(sum(found.values()), 2.057739, 2e-6)
    close(norms(made.keys.grad), [1.329411, 0.841287, 0.900267, 0, 1.288424], 1e-5)
    close(norms(made.prompts.grad), [6.330961, 4.364013, 1.670774, 0.124489, 10.545682], 2e-4)
    close(made.keys.grad[0, :3], [-0.114727, 0.177615, 0.274961], 1e-5)
    close(made.prompts.grad[3, 0, :3], [-0.009432, 0.010352, -0.013957], 1e-5)
    close(made.prompts.grad[1, 2, :3], [-0.119710, 0.038181, -0.083164], 1e-5)
    assert not made.keys.grad[3].any()


def test_gradients_of_single_losses(clip):
    for loss, weight, wanted in (("ce", 1, [6.2853, 4.3015, 1.6906, 0, 10.7654]),
                                 ("diversity", 0.3, [0.6125, 3.7113, 0.7779, 0.4150, 1.7436])):  # fmt: skip
        made = method(clip)
        step(made, loss)
        close(norms(made.prompts.grad) / weight, wanted, 2e-4)


def test_the_released_text_tower_learns(clip):
    made = method(clip, train_text=True)
    for parameter in clip.text_parameters():
        parameter.requires_grad_(True)
    step(made)
    close(clip.trunk.logit_scale.grad, 0.126891, 1e-5)
    close(clip.trunk.ln_final.weight.grad.norm(), 0.253858, 1e-4)
    close(clip.trunk.text_projection.grad.norm(), 2.048269, 1e-4)
    close(clip.trunk.positional_embedding.grad.norm(), 15.6359, 1e-3)
    assert clip.trunk.token_embedding.weight.grad is None


@pytest.mark.parametrize("pristine", [False, True])
def test_which_text_tower_a_test_sees(clip, pristine):
    made, features = method(clip, train_text=True, pristine_tests=pristine), F.normalize(u(31, 3, 64), dim=1)
    with torch.no_grad():
        before = made.predict(features)
        clip.trunk.text_projection.mul_(1.1).add_(0.01)  # what training may do
        made._texts.clear()  # as a step of training does
        made.end_task(None)
        after = made.predict(features)
        assert torch.equal(before, after) == pristine
        made.reset_text()
        assert torch.equal(before, made.predict(features))


def test_a_name_more_leaves_the_others(clip):
    made, features = method(clip), F.normalize(u(31, 3, 64), dim=1)
    with torch.no_grad():
        before = made.predict(features)
        made.names.append("bear")
        after = made.predict(features)
    close(after[:, 3], [2.6177, 1.0482, -2.6963], 1e-4)
    close(after[:, :3], before, 1e-6)


def test_the_printed_formulas(clip):
    found = step(method(clip, **PAPER))
    close(found["keys"] / 0.7, 1.709826, 3e-6)
    close(2 * found["diversity"] / 0.3, 0.769998, 3e-6)
    close(step(method(clip, ordered_pairs=False))["diversity"] / 0.3, 0.422574, 2e-6)


@pytest.mark.parametrize("kind", ["triplet", "mse"])
def test_other_distances_of_table_6(clip, kind):
    """Spelled out image by image."""
    made = method(clip)
    made.key_loss = kind
    features, keys = F.normalize(u(31, 3, 64), dim=1), made.keys.detach()
    chosen, told = made.choose(features), []
    for z, picked in zip(features, chosen.tolist()):
        cosine = [1 - float(z @ F.normalize(key, dim=0)) for key in keys]
        rest = [cosine[k] for k in range(5) if k not in picked]
        apart = {"triplet": lambda k, c=cosine, r=rest: max(0.0, c[k] - sum(r) / len(r) + 0.2),
                 "mse": lambda k, z=z: float((z - keys[k]).square().mean())}[kind]  # fmt: skip
        told.append(sum(apart(k) for k in picked) / len(picked))
    close(made.distance(features, chosen).detach(), sum(told) / 3, 1e-6)
