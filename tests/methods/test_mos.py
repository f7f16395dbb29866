"""MOS against its steps written out: merges of sets, the contrast, the sets that an image tries, the drift of released code."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from cil.common.switches import grouped
from cil.data.frozen_features import Known
from cil.data.images import Batch
from cil.methods.mos import MOS
from cil.modules.statistics.gaussians import Gaussians
from tests.methods.test_contract import fitted, small  # noqa: F401
from tests.reference import DEPTH, WIDTH, close, fill, images, transformer

PLAIN = dict(
    bottleneck=3, scale=0.5, dropout=0.0, start="new", momentum=0.1, merge="step", contrast=0.0, head_lr=0.1, align_epochs=4,
    align_lr=0.1, samples=5, diagonal=False,
)  # fmt: skip


def task(index: int) -> SimpleNamespace:
    classes = range(2 * index, 2 * index + 2)
    return SimpleNamespace(index=index, classes=classes, seen=range(classes.stop), old=range(classes.start), train=None)


def mos(tasks: int = 3, **settings) -> MOS:
    """With sets that have learned something, and the mean of all but the last."""
    torch.manual_seed(0)
    method = MOS(transformer(), **grouped(MOS, PLAIN | settings))
    for index in range(tasks):
        method.begin_task(task(index))
        method.double().eval()
        for number, parameter in enumerate(method.sets[-1].parameters()):
            parameter.data = fill(100 * index + number + 1, *parameter.shape, scale=0.3)
    for name, parameter in method.older.named_parameters():
        parameter.data = torch.stack([own.get_parameter(name).data for own in method.sets[:-1]] or [parameter.data]).mean(0)
    method.prototypes, method.gaussians.means = fill(902, 2 * tasks, WIDTH), fill(903, 2 * tasks, WIDTH, scale=0.7)
    for number, parameter in enumerate(method.head.parameters()):
        parameter.data = fill(904 + number, *parameter.shape)
    return method


def copied(own: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in own.state_dict().items()}


@torch.no_grad()
def test_an_image_tries_sets_until_its_class_is_of_the_set():
    method, tries = mos(), []
    method.prototypes, method.head = method.prototypes.float(), method.head.float()
    shown = 4 * fill(901, 24, 3, 32, 32)
    for image, sums in zip(shown, method.predict(shown)):
        features = [method.backbone(image[None], adapters=own)[0] for own in method.sets]
        cosines = [float(F.cosine_similarity(features[0], mean.double(), dim=0)) for mean in method.prototypes]
        own, tried = cosines.index(max(cosines)) // 2, []
        while len(tried) < 4 and (not tried or own != tried[-1]):
            tried.append(own)
            logits = method.head.weight.double() @ features[own] + method.head.bias
            own = int(logits.argmax()) // 2
        tries.append(len(tried))
        close(sums, logits.softmax(0) + (3 * torch.tensor(cosines)).softmax(0), 1e-5)
    assert {1, 2} < set(tries)  # some go on


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_the_loss(weight):
    method, labels = mos(contrast=weight), torch.tensor([4, 5, 5, 4])
    losses = method.training_step(Batch(images(), labels, torch.arange(4)), SimpleNamespace(task=task(2)))
    features = method.backbone(images(), adapters=method.sets[-1]).detach()
    logits = (features @ method.head.weight.T + method.head.bias)[:, 4:].detach()
    wanted = -sum(float(row.log_softmax(0)[label - 4]) for row, label in zip(logits, labels.tolist())) / 4
    close(losses["ce"].detach(), wanted, 1e-9)
    assert ("contrast" in losses) == (weight > 0)
    if weight:
        everything, total = [*method.gaussians.means[:4], *features.float()], 0.0
        for one in everything:
            products = torch.stack([one.double() @ other.double() for other in everything]) / 0.8
            total += float(products.logsumexp(0) - one.double() @ one.double() / 0.8)
        close(losses["contrast"].detach(), weight * total / len(everything), 1e-5)


@pytest.mark.parametrize("merge", ["step", "pass"])
@pytest.mark.parametrize("tasks", [1, 3])
def test_merges_of_a_training_step(merge, tasks):
    """Once after the step. Released: also before each block, so that the block sees a set merged as often as blocks began."""
    method = mos(tasks, merge=merge)
    before, mean = copied(method.sets[-1]), copied(method.older)

    def merged(times: int) -> dict[str, torch.Tensor]:
        share = 0.9**times if tasks > 1 else 1.0
        return {name: mean[name] + share * (value - mean[name]) for name, value in before.items()}

    step = method.training_steps(
        Batch(images(), torch.tensor([2 * tasks - 1] * 4), torch.arange(4)), SimpleNamespace(task=task(tasks - 1), name="train")
    )
    loss = next(step)["ce"]
    own = [method.new().double() for _ in range(DEPTH)]  # the set that block b sees
    for block, seen in enumerate(own):
        seen.load_state_dict(merged(block + 1 if merge == "pass" else 0))
    features = method.backbone(images(), adapters=[seen[block] for block, seen in enumerate(own)])
    wanted = F.cross_entropy(method.head(features)[:, -2:], torch.tensor([1] * 4))
    close(loss.detach(), wanted.detach(), 1e-9)
    for each in (loss, wanted):
        each.backward()
    for block, seen in enumerate(own):
        for name, parameter in seen[block].named_parameters():
            close(method.sets[-1][block].get_parameter(name).grad, parameter.grad)
    assert next(step, None) is None
    for name, value in merged(DEPTH + 1 if merge == "pass" else 1).items():
        close(method.sets[-1].state_dict()[name], value)


def test_alignment_merges_nothing_and_is_over_all_classes_seen():
    method, features, labels = mos(), fill(7, 5, WIDTH), torch.tensor([0, 5, 2, 3, 1])
    before, phase = copied(method.sets[-1]), SimpleNamespace(task=task(2), name="align")
    (losses,) = method.training_steps(Known(features, labels), phase)
    close(losses["ce"].detach(), F.cross_entropy(method.head(features), labels).detach())
    assert all(torch.equal(before[name], value) for name, value in method.sets[-1].state_dict().items())
    train, align = method.phases(task(2))
    assert (train.name, align.name, len(align.data)) == ("train", "align", 30)
    assert train.parameters[1]["lr"] == 0.1 and "lr" not in train.parameters[0]
    assert [phase.name for phase in mos(1).phases(task(0))] == ["train"]


def test_variances_only():
    kept, features = Gaussians(3, shrinkage=False, diagonal=True), fill(3, 9, 3)
    kept.grow(1)
    kept.remember(features, torch.zeros(9), range(1))
    close(kept.factors[0] @ kept.factors[0].T, torch.diag(features.var(0) + 1e-4), 1e-6)


@pytest.mark.parametrize(("merge", "start"), [("step", "new"), ("step", "previous"), ("pass", "new"), ("pass", "previous")])
def test_what_is_kept_of_each_set(small, tmp_path, monkeypatch, scenario, merge, start):  # noqa: F811
    """The set as trained. Released: the mean of the older ones as trained, which tests and statistics merge it to."""
    trained, begun = [], []

    class Watched(MOS):
        def begin_task(self, now):
            super().begin_task(now)
            begun.append(copied(self.sets[-1]))

        def end_phase(self, phase):
            if phase.name == "train":
                trained.append(copied(self.sets[-1]))
            super().end_phase(phase)

    monkeypatch.setattr("cil.methods.mos.MOS", Watched)
    method = fitted(small("mos", f"method.merge={merge}", f"method.start={start}"), tmp_path).method.eval()
    for index, own in enumerate(method.sets):
        older = trained[:index] if merge == "pass" and index else trained[index : index + 1]
        for name, value in own.state_dict().items():
            torch.testing.assert_close(value, torch.stack([each[name] for each in older]).mean(0))
        if index + 1 < len(method.sets):
            went_on = all(torch.equal(begun[index + 1][name], value) for name, value in own.state_dict().items())
            assert went_on == (start == "previous")
    for index, one in enumerate(scenario):
        batch = one.train_plain.batch(torch.arange(len(one.train_plain)))
        for number, kept in ((index, method.gaussians.means), (0, method.prototypes)):
            with torch.no_grad():
                features = method.backbone(batch.images, adapters=method.sets[number])
            for label in one.classes:
                torch.testing.assert_close(kept[label], features[batch.labels == label].mean(0))
    assert method.task_of.tolist() == [index for index, one in enumerate(scenario) for _ in one.classes]


def test_a_test_image_is_encoded_once_a_set(small, tmp_path, scenario):  # noqa: F811
    trainer = fitted(small("mos"), tmp_path)
    method = trainer.method
    trained = sum(4 * len(one.train) for one in scenario)  # two epochs, the statistics, the class means
    assert trainer.encodes.total == trained + 3 * sum(len(one.test) for one in scenario)
    with torch.no_grad():
        for one in scenario:
            shown = one.test.batch(torch.arange(len(one.test))).images
            torch.testing.assert_close(method.known(one.test), method.everywhere(shown))
            torch.testing.assert_close(method.predict_from(method.known(one.test), None), method.predict(shown))
