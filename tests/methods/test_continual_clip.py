import torch

from cil.build import make
from cil.methods.continual_clip import ContinualCLIP
from tests.harness import compose


def learn(scenario, *templates: str) -> ContinualCLIP:
    method = ContinualCLIP(make(compose("backbone=clip_tiny")["backbone"], "backbone"), templates=templates).eval()
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
