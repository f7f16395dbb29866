import torch
import torch.nn.functional as F

from cil.data.frozen_features import FrozenResults
from cil.data.scenario import Scenario
from cil.engine.build import make
from cil.methods.class_mean import ClassMean
from tests.harness import compose


def learn(scenario) -> ClassMean:
    method = ClassMean(make(compose("backbone=vit_tiny")["backbone"], "backbone")).eval()
    method.frozen = FrozenResults(method.frozen_stage, torch.device("cpu"))
    for task in scenario:
        method.begin_task(task)
        method.end_task(task)
    return method


def test_any_split_of_the_data_gives_the_same_classifier(images, scenario):
    at_once = Scenario(images, scenario.views, name="x", tasks=1, first=None, order="numpy:1993")
    torch.testing.assert_close(learn(scenario).means, learn(at_once).means, atol=1e-4, rtol=1e-4)


def test_scores_are_cosines_to_the_mean_of_raw_features(scenario):
    method, task = learn(scenario), scenario[1]
    batch = task.test.batch(torch.arange(3))
    with torch.no_grad():
        scores = method.predict(batch.images)
        for label in task.classes:
            own = [method.backbone(task.train_plain.batch(torch.tensor([k])).images)[0]
                   for k in range(len(task.train_plain)) if task.train_plain.labels[k] == label]  # fmt: skip
            mean = torch.stack(own).mean(0)
            for row, image in enumerate(batch.images):
                slow = F.cosine_similarity(method.backbone(image[None])[0], mean, dim=0)
                torch.testing.assert_close(scores[row, label], slow, atol=1e-4, rtol=1e-4)
