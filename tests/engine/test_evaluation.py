"""What a method returns is checked before it is counted."""

import pytest
import torch
from torch import nn

from cil.common.errors import UserError
from cil.methods import class_mean
from tests import harness

WORDS = ("method=class_mean", "scenario.tasks=5", *harness.SMALL)


def nan_for_one(self, known, images):
    scores = torch.zeros(len(known), len(self.means))
    scores[0, -1] = torch.nan
    return scores


@pytest.mark.parametrize("name, wrong, told", [
    ("predict_from", nan_for_one, "ClassMean gave NaN as scores of 1 of 60 test images of task 1; look for a division by zero"),
    ("predict_from", lambda *_: None, r"predict returned NoneType for 60 images and 20 classes; it must return scores, \(60,"),
    ("predict_from", lambda *_: torch.zeros(60, 7), r"predict returned a tensor \(60, 7\) for 60 images and 20 classes"),
    ("predict_from", lambda *_: torch.zeros(60, 20).numpy(), "predict returned ndarray for 60 images and 20 classes"),
    ("phases", lambda *_: None, r"ClassMean.phases returned None; return a list of phases, \[\] to train nothing"),
])  # fmt: skip
def test_what_is_no_answer_is_told(tmp_path, monkeypatch, name, wrong, told):
    monkeypatch.setattr(class_mean.ClassMean, name, wrong)
    with pytest.raises(UserError, match=told):
        harness.execute(harness.compose(*WORDS, f"outputs={tmp_path}"))


def test_nan_of_a_joint_prediction_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(class_mean.ClassMean, "leaky_chunk", 10)
    monkeypatch.setattr(class_mean.ClassMean, "together", lambda self, scores: scores * torch.nan)
    with pytest.raises(UserError, match="ClassMean gave NaN as scores of 60 of 60 test images of task 1"):
        harness.execute(harness.compose(*WORDS, f"outputs={tmp_path}"))


def test_a_class_that_is_no_method_is_told(tmp_path, monkeypatch):
    class Plain(nn.Module):
        def __init__(self, backbone: nn.Module) -> None:
            super().__init__()

    monkeypatch.setattr(class_mean, "ClassMean", Plain)
    with pytest.raises(UserError, match=r"ClassMean is no method; derive its class from cil\.method\.Method"):
        harness.execute(harness.compose(*WORDS, f"outputs={tmp_path}"))
