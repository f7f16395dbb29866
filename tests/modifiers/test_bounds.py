"""The modifiers that tell what a head forgets from what features forget: freeze and class_means."""

import pytest
import torch
import torch.nn.functional as F

from cil.common.errors import UserError
from cil.common.signals import StopRequest
from cil.contract import difference, in_pieces, record
from cil.engine.build import device_of, experiment
from cil.modifiers.class_means import ClassMeans
from cil.runs.run_folder import RunDir


@pytest.fixture
def fitted(small, tmp_path):
    def fit(host, name, *words, stop=None, tasks=3):
        config = small(host, *words)
        trainer = experiment(
            config, RunDir(tmp_path / name).open(config), device_of("cpu"), StopRequest() if stop is None else stop
        )
        trainer.scenario = trainer.scenario[:tasks]
        with trainer.run:
            trainer.fit()
        return trainer

    return fit


def test_only_the_head_learns_after_the_first_task(fitted):
    first = fitted("l2p", "first", "modifier=freeze", tasks=1).method.state_dict()
    frozen = fitted("l2p", "frozen", "modifier=freeze").method.state_dict()
    usual = fitted("l2p", "usual", "modifier=none").method.state_dict()
    for name in ("prompts", "keys"):
        assert torch.equal(frozen[name], first[name]) and not torch.equal(usual[name], first[name])
    new = slice(len(first["head.weight"]), None)  # equal at first, and learned from other features
    assert not torch.equal(frozen["head.weight"][new], usual["head.weight"][new])
    late = fitted("l2p", "late", "modifier=freeze", "modifier.freeze.after=2").method.state_dict()
    assert not torch.equal(late["prompts"], first["prompts"])


def test_class_means_are_those_of_a_plain_loop_and_change_nothing(fitted):
    trainer = fitted("dualprompt", "measured", "modifier=class_means")
    usual = fitted("dualprompt", "usual", "modifier=none")
    assert all(torch.equal(own, usual.method.state_dict()[name]) for name, own in trainer.method.state_dict().items())
    events = [event for event in record(trainer.run) if event.get("modifier") == "ClassMeans"]
    assert [len(event["correct"]) for event in events] == [1, 2, 3]
    (modifier,), last = trainer.modifiers, trainer.scenario[2]
    with torch.no_grad():
        for label in last.classes:  # the means of the last task are those of the features that are there now
            of_class = (last.train_plain.labels == label).nonzero()[:, 0]
            mean = trainer.method.features(last.train_plain.batch(of_class).images).mean(0)
            torch.testing.assert_close(modifier.means[label], F.normalize(mean, dim=0))
        for task, percent in zip(trainer.scenario, events[-1]["correct"]):
            batch = task.test.batch(torch.arange(len(task.test)))
            answers = (F.normalize(trainer.method.features(batch.images), dim=1) @ modifier.means.T).argmax(1)
            assert percent == pytest.approx(100 * float((answers == batch.labels).float().mean()))
    assert events[-1]["acc"] == pytest.approx(sum(events[-1]["correct"]) / 3)


@pytest.mark.parametrize("modifier", ["freeze", "class_means", "[freeze,class_means]"])
def test_a_stopped_run_resumes_to_the_same_bits(fitted, modifier):
    whole = fitted("l2p", "whole", f"modifier={modifier}")
    resumed, times = in_pieces(lambda stop: fitted("l2p", "stopped", f"modifier={modifier}", stop=stop), (3, 3, 3))
    assert times == 3 and not difference(whole.run, resumed.run)


def test_unsuitable_methods_are_refused(fitted):
    with pytest.raises(UserError, match="freeze needs a method that learns a head and prompts, keys or adapters"):
        fitted("finetune", "refused", "modifier=freeze")
    with pytest.raises(UserError, match="class_means needs a backbone that computes one feature vector"):
        ClassMeans().attach(torch.nn.Identity())
