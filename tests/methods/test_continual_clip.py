import re

import pytest
import torch
import torch.nn.functional as F

from cil.common.errors import UserError
from cil.engine.build import make
from cil.methods.continual_clip import ContinualCLIP
from cil.modules.text import ClassTexts, templates
from tests.harness import compose


def learn(scenario, *templates: str) -> ContinualCLIP:
    backbone = make(compose("backbone=clip_tiny")["backbone"], "backbone")
    method = ContinualCLIP(backbone, class_texts=ClassTexts(templates, underscores=False)).eval()
    for task in scenario:
        method.begin_task(task)
        method.end_task(task)
    return method


def test_one_template_is_the_stock_clip_forward(scenario):
    method = learn(scenario, "a photo of a {}.")
    images = scenario[0].test.batch(torch.arange(4)).images
    tokens = method.backbone.tokenizer([f"a photo of a {name}." for task in scenario for name in task.names])
    with torch.no_grad():
        stock, _ = method.backbone.trunk.get_logits(images, tokens)
        torch.testing.assert_close(method.predict(images), stock, atol=1e-4, rtol=1e-4)


def test_several_templates_are_the_normalised_mean_of_normalised_texts(scenario):
    templates = ("a photo of a {}.", "{}", "the character {}.")
    method = learn(scenario, *templates)
    for label, name in enumerate(name for task in scenario for name in task.names):
        with torch.no_grad():
            encoded = [method.backbone.encode_text([template.format(name)])[0] for template in templates]
        mean = sum(text / text.norm() for text in encoded) / len(templates)
        torch.testing.assert_close(method.texts[label], mean / mean.norm(), atol=1e-5, rtol=1e-5)


def test_nothing_is_trained(scenario):
    assert all(learn(scenario, "{}").phases(task) == [] for task in scenario)


def test_the_sets_of_the_release():
    """80 texts for ImageNet, 18 for CIFAR, each once and with a place for the name."""
    for name, count, some in (("imagenet80", 80, "a tattoo of the {}."), ("cifar18", 18, "a low contrast photo of the {}.")):
        texts = templates(name)
        assert len(texts) == len(set(texts)) == count and some in texts and all(text.count("{}") == 1 for text in texts)


@pytest.mark.parametrize(
    ("wanted", "line"), [("cifar81", "did you mean cifar18"), ([], "at least one text"), (["a {} {}"], "one {}")]
)
def test_a_slip_in_the_templates(wanted, line):
    with pytest.raises(UserError, match=re.escape(line)):
        templates(wanted)


def test_names_with_underscores(scenario):
    backbone = make(compose("backbone=clip_tiny")["backbone"], "backbone")
    method = ContinualCLIP(backbone, class_texts=ClassTexts(["a {}."], underscores=True))
    method.begin_task(scenario[0])
    method.end_task(scenario[0])
    with torch.no_grad():
        encoded = F.normalize(backbone.encode_text([f"a {name.replace(' ', '_')}." for name in scenario[0].names]), dim=1)
    torch.testing.assert_close(method.texts, encoded, atol=1e-5, rtol=1e-5)
