"""The three attentions against the check values of their specification (section 15.1), and against loops."""

import math

import pytest
import torch

from cil.modules.growing.attention import ATTENTIONS, TaskAttention, nonlocality, relative
from tests.modules.test_adapter_parts import fill
from tests.reference import close

X = fill((1, 4, 8), 1, 0.11, 0.2)
VALUES = {
    "gated": {
        "first": "0.575238 0.107876 0.302226 0.014660 0.351402 0.419225 "
        "0.147462 0.081911 0.365070 0.145117 0.360705 0.129108 "
        "0.199086 0.317495 0.190800 0.292620",
        "out": "0.399417 -0.616706 -1.064468 -1.318362 -0.055876 0.241337 1.140204 -0.188615 0.311604 -0.523832 "
        "-0.968490 -1.053868 "
        "-0.376311 0.475131 0.972313 -0.152273 -0.310536 -0.407213 -0.200529 -1.000895 -1.126555 0.345880 0.973431 -0.629115 "
        "-0.489018 -0.672883 -0.549188 -1.049542 -1.168516 0.424550 0.970916 -0.678119",
        "qk": "-0.014294 -0.023235 -0.036735 -0.105387",
        "distance": "0.640485 0.651668 0.683196 0.657363",
    },
    "local": {
        "first": "0.768185 0.106804 0.111119 0.013892 0.434966 0.445487 "
        "0.060370 0.059178 0.439997 0.060576 0.439058 0.060369 "
        "0.245826 0.256426 0.242367 0.255381",
        "out": "0.777819 -0.363271 -1.031589 -1.361929 0.130083 0.311882 1.118739 -0.053266 -0.056678 -0.712180 "
        "-0.815620 -1.101088 "
        "-0.762704 0.613867 1.189380 -0.531901 -0.409635 -0.737257 -0.757923 -1.476318 -1.424669 0.927880 1.318491 -0.576643 "
        "-0.826537 -0.717393 -0.129395 -1.115492 -1.991816 0.707974 0.848533 -0.953512",
        "qk": "-0.000686 -0.009400 0.011869 -0.016617",
        "distance": "0.562391 0.563810 0.593538 0.665614",
    },
}


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


def layer(kind: str):
    made = ATTENTIONS[kind](8, 4, 2).double()
    made.reset()
    made.qk.weight.data, made.v.weight.data = (
        fill((16, 8), 0.9, 0.07, 0.3),
        torch.eye(8).double() + fill((8, 8), 0.5, 0.13, 0.1),
    )
    made.out.weight.data, made.out.bias.data = fill((8, 8), 0.6, 0.17, 0.4), fill((8,), 0.1, 0.3, 0)
    if kind == "gated":
        made.position.bias.data.zero_()
    if kind == "local":
        made.position.weight.data[:, 3] = torch.tensor([0.02, -0.01, 0.5, 1.0])
    return made


def test_positions():
    assert relative(2)[0].tolist() == [[0, 0, 0], [1, 0, 1], [0, 1, 1], [1, 1, 2]]
    made = layer("gated")
    assert made.position.weight.tolist() == [[-1, -1, -1], [-1, 1, -1], [1, -1, -1], [1, 1, -1]]


@pytest.mark.parametrize("kind", VALUES)
def test_maps_outputs_and_gradients(kind):
    made, wanted = layer(kind), VALUES[kind]
    maps, out = made.maps(X), made(X)
    close(maps[0, 0].flatten(), numbers(wanted["first"]), 1e-6)
    close(out.flatten(), numbers(wanted["out"]), 1e-6)
    close(nonlocality(maps[0], 2), numbers(wanted["distance"]), 1e-6)
    (out.square().sum() / 2).backward()
    close(made.qk.weight.grad[0, :4], numbers(wanted["qk"]), 1e-6)
    if kind == "gated":
        close(made.gate.grad, [0.725931, 0.292964, 0.035664, -0.162534], 1e-6)
        close(made.position.weight.grad[0], [-0.665274, -1.118590, 0.784734], 1e-6)
        close(made.position.bias.grad, [0] * 4, 1e-9)
    else:
        close(maps[0, 2, 0], [0.205613, 0.702559, 0.025222, 0.066606], 1e-6)
        close(maps[0, 3, 3], [0.015020, 0.050036, 0.057137, 0.877807], 1e-6)
        wanted = [[-1.164567, -1.968172, 1.583571, -2.097952], [0.541650, 0.563953, -2.702078, -0.069888],
                  [-0.272523, -0.539637, 0.060833, 0.033997], [1.392372, 0.251842, -0.013925, 1.764014]]  # fmt: skip
        close(made.position.weight.grad, wanted, 1e-6)
        close(made.qk.weight.grad[15, :4], [0.159691, 0.053235, 0.100244, 0.395444], 1e-6)


def test_local_attention_is_the_diagonal_of_a_map_over_all_heads():
    """As the released layer has it: the scores of all heads go through one linear map onto the heads."""
    made = layer("local")
    content, position = made.content(X)[0], made.position.weight.detach()
    for head in range(4):
        joint = torch.stack([position[h, :3] @ relative(2).double().permute(2, 0, 1).flatten(1) for h in range(4)])
        each = joint.view(4, 4, 4) + position[:, 3, None, None] * content[head]
        torch.testing.assert_close(made.maps(X)[0, head], each[head].softmax(1))


def test_the_task_attention():
    made = TaskAttention(8, 4).double()
    token = fill((1, 1, 8), 0.7, 0.21, 0.6)
    made.q.weight.data, made.k.weight.data = fill((8, 8), 0.9, 0.07, 0.3), fill((8, 8), 0.9, 0.19, 0.5)
    made.v.weight.data = fill((8, 8), 0.5, 0.13, 0.1)
    made.out.weight.data, made.out.bias.data = fill((8, 8), 0.6, 0.17, 0.4), fill((8,), 0.1, 0.3, 0)
    out = made(token, X)
    close(out.flatten(), [-0.205154, -0.838691, -0.706529, -0.359499, -0.707727, -0.678753, 0.215460, -0.577629], 1e-6)
    three = torch.cat([token, 2 * token, token + 1], 1)
    for number in range(3):  # tokens do not see one another
        torch.testing.assert_close(made(three, X)[:, number : number + 1], made(three[:, number : number + 1], X))


@pytest.mark.parametrize(
    ("side", "uniform", "heads"), [(8, 4.1365, (0.729, 1.098, 1.394)), (14, 7.2808, (0.759, 1.166, 1.485))]
)
def test_how_far_heads_look_at_the_beginning(side, uniform, heads):
    torch.manual_seed(0)
    made = ATTENTIONS["local"](24, 12, side)
    made.position.weight.data.zero_()
    made.reset()
    found = nonlocality(made.maps(torch.randn(1, side * side, 24))[0], side)
    centre, edge, corner = found[4], found[1], found[0]
    close(torch.stack([centre, edge, corner]), heads, 6e-4)
    close(found[9:], [uniform] * 3, 6e-5)
    slow = sum(math.dist(divmod(n, side), divmod(m, side)) for n in range(side**2) for m in range(side**2)) / side**4
    close(found[9], slow, 1e-4)
