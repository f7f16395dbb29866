"""Losses and herding against the check values of their specification (sections 15.2 and 15.3), and against loops."""

import pytest
import torch

from cil.modules.rehearsal.exemplars import herded
from cil.modules.rehearsal.loss import binary, distilled, diverging, mixed, soft
from tests.modules.test_adapter_parts import fill
from tests.reference import close

LABELS, OLD, SHARE = torch.tensor([0, 2, 3, 4]), 3, 0.6
DYTOX = ("-0.011902 0.007727 0.028779 0.016720 0.005414 0.000785 0.053990 -0.050258 0.017269 0.002386 0.017510 0.034056 "
         "-0.017419 -0.017367 0.004770 0.009595 -0.000334 0.003944 0.003958 -0.004262")  # fmt: skip
LPA = ("-0.009676 0.000527 0.039953 0.016320 -0.000386 -0.002985 0.089964 -0.076262 0.011469 0.001986 0.015231 0.014573 "
       "-0.002258 -0.010367 0.004370 0.000287 0.004176 0.002142 0.003558 0.002738")  # fmt: skip


@pytest.fixture
def outputs() -> tuple[torch.Tensor, ...]:
    return fill((4, 5), 2, 0.21, 0.3).requires_grad_(), fill((4, 3), 2, 0.33, 0.8), fill((4, 3), 1.5, 0.27, 0.5)


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


def test_losses_of_dytox(outputs):
    logits, teacher, apart = outputs
    targets = soft(LABELS, 5, 0.0).double()
    parts = binary(logits, targets), distilled(logits, teacher), diverging(apart, targets, OLD)
    for found, wanted in zip(parts, (0.9453812194, 0.2791592695, 0.7042743646)):
        close(found, wanted, 1e-9)
    total = (1 - SHARE) * parts[0] + SHARE * parts[1] + 0.1 * parts[2]
    close(total, 0.6160754859, 1e-9)
    total.backward()
    close(logits.grad.flatten(), numbers(DYTOX), 1e-6)


def test_losses_of_the_lpa_code(outputs):
    logits, teacher, apart = outputs
    targets = mixed(soft(LABELS, 5, 0.1), 0.7).double()
    close(targets[0], [0.65, 0.02, 0.02, 0.02, 0.29], 1e-6)
    close(targets[2], [0.02, 0.02, 0.29, 0.65, 0.02], 1e-6)
    remembered = slice(0, 2)  # of old tasks
    parts = binary(logits, targets), distilled(logits[remembered], teacher[remembered]), diverging(apart, targets, OLD)
    close(parts[0], 0.9355497498, 1e-7)
    close(SHARE * parts[1], 0.2286634092, 1e-9)
    close(0.1 * parts[2], 0.0855328741, 1e-7)
    total = (1 - SHARE) * parts[0] + SHARE * parts[1] + 0.1 * parts[2]
    close(total, 0.6884161831, 1e-7)
    total.backward()
    close(logits.grad.flatten(), numbers(LPA), 1e-6)


def test_herding():
    features = fill((6, 4), 1, 0.31, 0.2)
    assert herded(features, 4).tolist() == [1, 2, 0, 5]
    assert herded(features, 6).tolist() == herded(features, 99).tolist() == [1, 2, 0, 5, 4, 3]
    assert herded(features, 0).tolist() == herded(features[:0], 4).tolist() == []
    assert herded(features[:1], 4).tolist() == [0]


def test_herding_of_images_that_are_never_found():
    """Two of a kind: the first is found again and again, the second stands where room is left."""
    same = torch.ones(3, 2, dtype=torch.float64)
    assert herded(same, 2).tolist() == [0, 1] and herded(same, 3).tolist() == [0, 1, 2]


def test_a_herd_follows_the_mean_better_than_the_first_images():
    torch.manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(60, 8) + 1, dim=1)
    mean = features.mean(0)
    for count in (3, 10, 30):
        own = (features[herded(features, count)].mean(0) - mean).norm()
        assert own < 0.5 * (features[:count].mean(0) - mean).norm()
