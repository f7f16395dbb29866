"""DyTox and Raw: losses against a slow form, what is frozen when, the memory, the teacher, and what a process leaves alone."""

import pytest
import torch
import torch.nn.functional as F

from cil.common.errors import UserError
from cil.common.seeding import seed_everything
from cil.common.signals import Stopped
from cil.data.scenario import Scenario
from cil.data.transforms.views import ImageSpec, View, views
from tests import harness
from tests.children import Child
from tests.methods.test_contract import StopsAt, fitted, small, trainer_of  # noqa: F401

FEW = ("method.memory=16", "method.later_epochs=2", "method.tune_epochs=2", "train.batch_size=8")
PARTS = ("train", "tune")
CHANCE = ("method.mixup=0.8", "method.smoothing=0.1", "method.repeats=3", "backbone.drop=0.3", "method.herding=augmented")


@pytest.fixture
def chance(small, images, monkeypatch):  # noqa: F811
    """The same three tasks under a view that draws a crop, a mirror and RandAugment."""
    pair = views(ImageSpec(32, (0.5,) * 3, (0.5,) * 3), test={"crop": "whole"},
                 train={"crop": "padded", "padding": 2, "flip": 0.5, "randaugment": True})  # fmt: skip
    drawn = Scenario(images, pair, name="small", tasks=3, first=None, order="numpy:1993")
    monkeypatch.setattr("cil.engine.build.build_scenario", lambda config, backbone, images=None: drawn)


def begun(small, tmp_path, method: str, tasks: int, *words: str):  # noqa: F811
    """A trainer inside a task: its phases, whose memory is what earlier tasks left."""
    trainer = trainer_of(small(method, *FEW, *words), tmp_path)
    for task in trainer.scenario[:tasks]:
        trainer.begin(task)
        phases = trainer.method.phases(task)
        if task.index + 1 < tasks:
            for phase in phases:
                trainer.method.end_phase(phase)
    return trainer, trainer.scenario[tasks - 1]


def names(trainer, phase) -> set[str]:
    """What a phase trains, by the parts that have a say."""
    listed = {id(p) for group in phase.parameters for p in group["params"]}
    parts = {"backbone.token": "token 0", "backbone.last": "last", "backbone": "trunk", "reader.tokens.0": "token 1",
             "reader.tokens.1": "token 2", "reader.heads.0": "head 0", "reader.heads.1": "head 1", "reader.heads.2": "head 2",
             "apart": "apart"}  # fmt: skip
    found = {}
    for name, parameter in trainer.method.named_parameters():
        if not name.startswith("teacher."):
            part = next(part for start, part in parts.items() if name.startswith(start + ".") or name == start)
            found.setdefault(part, set()).add(id(parameter) in listed)
    assert all(len(own) == 1 for own in found.values()), "a part is trained whole or not at all"
    return {part for part, (own,) in found.items() if own}


@pytest.mark.parametrize(("method", "first", "later", "tuned"), [
    ("dytox", {"trunk", "last", "token 0", "head 0"}, {"trunk", "last", "token 2", "head 2", "apart"},
     {"last", "token 0", "token 1", "token 2", "head 0", "head 1", "head 2"}),
    ("raw", {"trunk", "last", "token 0", "head 0"}, {"trunk", "last", "token 0", "head 2"},
     {"token 0", "head 0", "head 1", "head 2"}),
])  # fmt: skip
def test_what_each_phase_trains(small, tmp_path, method, first, later, tuned):  # noqa: F811
    trainer, task = begun(small, tmp_path / "first", method, 1)
    (phase,) = trainer.method.phases(task)
    assert names(trainer, phase) == first
    trainer, task = begun(small, tmp_path / "later", method, 3)
    phases = list(trainer.method.phases(task))
    assert [phase.name for phase in phases] == ["train", "tune"]
    assert names(trainer, phases[0]) == later and names(trainer, phases[1]) == tuned


def slow_loss(logits, teacher, targets, rows, old):
    """Sums over images and classes, one at a time."""
    batch, classes = logits.shape
    p = torch.sigmoid(logits)
    bce = -sum(float(targets[b, c] * p[b, c].log() + (1 - targets[b, c]) * (1 - p[b, c]).log())
               for b in range(batch) for c in range(classes)) / (batch * classes)  # fmt: skip
    if not len(rows):
        return bce
    kd = 0.0
    for b in rows:
        want, have = teacher[b].softmax(0), logits[b, :old].softmax(0)
        kd += float((want * (want / have).log()).sum()) / (len(rows) * old)
    return (1 - old / classes) * bce + old / classes * kd


@pytest.mark.parametrize("only_new", [False, True])
@pytest.mark.parametrize(("method", "words"), [
    ("dytox", ()), ("dytox", ("method.mixup=0.8", "method.smoothing=0.1")), ("raw", ()), ("raw", ("method.distil=all",)),
    ("dytox", ("method.distil=memory", "method.tune_taught=true")),
])  # fmt: skip
@pytest.mark.parametrize("name", PARTS)
def test_losses_of_a_step(small, tmp_path, method, words, only_new, name):  # noqa: F811
    trainer, task = begun(small, tmp_path, method, 3, *words)
    for phase in trainer.method.phases(task):
        if phase.name == name:
            break
        trainer.method.end_phase(phase)
    own, learner = trainer.method.eval(), trainer.method
    with torch.no_grad():  # a teacher that disagrees
        learner.teacher.reader.heads[0][1].bias.copy_(torch.tensor([0.7, -0.4]))
    rows = torch.arange(len(phase.data))[-8:] if not only_new else (phase.data.labels >= 4).nonzero()[:6, 0]
    batch = phase.data.batch(rows, "cpu", torch.Generator().manual_seed(0))
    seed_everything(0, "test")
    losses = {name: loss.item() for name, loss in own.training_step(batch, phase).items()}
    seed_everything(0, "test")
    mixing = bool(learner.mixup)
    share = float(torch.distributions.Beta(0.8, 0.8).sample()) if mixing else 1.0
    smooth = 0.1 if mixing else 0.0
    targets = torch.stack([torch.full((6,), smooth / 6) + (1 - smooth) * torch.eye(6)[label] for label in batch.labels])
    images, targets = (share * x + (1 - share) * torch.stack(list(x)[::-1]) for x in (batch.images, targets))
    with torch.no_grad():
        logits, teacher = own.predict(images), learner.teacher(images)
    taught = list(range(len(rows))) if "method.distil=all" in words or (method == "dytox" and "distil" not in str(words)) else \
        [b for b, label in enumerate(batch.labels) if label < 4]  # fmt: skip
    if name == "tune" and not learner.later.tune_taught:
        taught = []
    wanted = slow_loss(logits, teacher, targets, taught, 4)
    assert losses["bce"] + losses.get("distil", 0) == pytest.approx(wanted, rel=1e-5)
    assert ("apart" in losses) == (method == "dytox" and name == "train")
    if "apart" in losses:
        with torch.no_grad():
            apart = own.apart(own.reader.read(own.backbone, images)[:, 2])
        merged = torch.cat([targets[:, :4].sum(1, keepdim=True), targets[:, 4:]], 1)
        assert losses["apart"] == pytest.approx(float(0.1 * F.binary_cross_entropy_with_logits(apart, merged)), rel=1e-5)


def test_memory_shrinks_in_herding_order(small, tmp_path):  # noqa: F811
    """16 images: 8 of each of two classes, then 4 of four, then 2 of six; what stays are the first of before."""
    trainer = trainer_of(small("dytox", *FEW), tmp_path)
    before = {}
    for task, each in zip(trainer.scenario, (8, 4, 2)):
        trainer.begin(task)
        phase = next(iter(trainer.method.phases(task)))
        assert len(phase.data) == len(task.train) + sum(map(len, before.values()))
        seed_everything(0, task.index)
        trainer.method.eval().end_phase(phase)
        memory = trainer.method.memory
        now = {label: memory.rows[memory.labels == label].tolist() for label in range(len(task.seen))}
        assert all(len(rows) == each for rows in now.values())
        assert all(now[label] == rows[:each] for label, rows in before.items())
        before = now


def test_a_class_gives_no_more_than_it_has(small, tmp_path):  # noqa: F811
    trainer, task = begun(small, tmp_path, "raw", 1, "method.memory=1000")
    trainer.method.end_phase(next(iter(trainer.method.phases(task))))
    assert sorted(trainer.method.memory.rows.tolist()) == sorted(task.train.rows.tolist())


def test_a_memory_of_nothing_is_not_tuned_on(small, tmp_path):  # noqa: F811
    trainer = fitted(small("dytox", *FEW, "method.memory=0"), tmp_path)
    assert not len(trainer.method.memory) and trainer.matrix.learned == 3
    assert all(event["phase"] == "train" for event in harness.losses(trainer.run) if "phase" in event)


@pytest.mark.parametrize("herding", ["plain", "cropped", "augmented"])
def test_herding_sees_what_it_is_told(small, chance, tmp_path, herding):  # noqa: F811
    trainer, task = begun(small, tmp_path, "dytox", 1, f"method.herding={herding}")
    own, (train, test) = trainer.method.eval(), (task.train.view, task.train_plain.view)
    wanted = {"plain": test, "cropped": View(train.image, "padded", padding=2), "augmented": train}[herding]
    assert own.herding_view(train, test) == wanted
    found = []
    for seed in (0, 0, 1, 2, 3):
        seed_everything(seed)
        found.append(own.chosen(task).rows.tolist())
    assert found[0] == found[1]
    assert all(order == found[0] for order in found) == (herding == "plain")


def test_herding_of_photographs(small, tmp_path):  # noqa: F811
    """ImageNet100: the shorter side to 224 and not to 256; there is no padded crop to see."""
    trainer, _ = begun(small, tmp_path, "raw", 1)
    image = ImageSpec(224, (0.5,) * 3, (0.5,) * 3)
    test = View(image, "centre", resize=256, filter="bicubic")
    assert trainer.method.herding_view(test, test) == View(image, "centre", resize=224, filter="bicubic")
    with pytest.raises(UserError, match=r"method\.herding=cropped is of augment: crop=padded, not whole"):
        begun(small, tmp_path / "cropped", "raw", 1, "method.herding=cropped")


def test_the_teacher_stays_as_it_was_and_whole(small, tmp_path):  # noqa: F811
    trainer = trainer_of(small("dytox", *FEW, "backbone.drop=0.5"), tmp_path)
    kept = {}

    def watch(step, learn=trainer.learn):
        teacher = trainer.method.teacher
        if teacher:
            now = {name: value.clone() for name, value in teacher.state_dict().items()}
            known = kept.setdefault(step.where[0], now)
            assert all(torch.equal(known[name], now[name]) for name in now)
            assert trainer.method.training and not any(part.training for part in teacher.modules())
        learn(step)

    trainer.learn = watch
    trainer.fit()
    assert set(kept) == {1, 2}
    assert not any(
        torch.equal(kept[1][name], kept[2][name]) for name in ("backbone.last.mlp.0.weight", "reader.heads.0.1.weight")
    )


@pytest.mark.parametrize("method", ["dytox", "raw"])
def test_resumes_inside_each_phase_to_the_same_bits(small, chance, method, tmp_path):  # noqa: F811
    """With all that is drawn: crops, RandAugment, MixUp, repeats, depth, herding of augmented images. A run is stopped at every
    fifth step from its second task on, in which the memory is chosen; each process goes on where the last one stopped."""
    config, folder = small(method, *FEW, *CHANCE), tmp_path / "resumed"
    looks = StopsAt(10**9)
    straight = fitted(config, tmp_path / "straight", looks)
    inside, stop = set(), StopsAt(looks.looks // 3)
    while True:
        try:
            resumed = fitted(config, folder, stop)
            break
        except Stopped:
            stopped = trainer_of(config, folder).run
            if state := stopped.load(stopped.newest)["inside"]:
                inside.add(state["phase"])
            stopped.close()
            stop = StopsAt(5)
    harness.assert_same_bits(straight.run, resumed.run)
    assert torch.equal(straight.method.memory.rows, resumed.method.memory.rows)
    assert {0, 1} <= inside


def test_memory_is_one_on_any_number_of_processes(data_root, tmp_path):
    """Two processes of a launcher at once: each holds the same images, no more than asked for, and so does one alone."""
    words = [*harness.SMALL, "method=dytox", "method.memory=20", "method.herding=augmented", "scenario.tasks=2",
             *harness.latin(10), "dataset.train_per_class=4", "train.epochs=1", "method.later_epochs=1", "method.tune_epochs=1",
             f"data.root={data_root}"]  # fmt: skip
    runs, children = {}, {}
    for rank in (None, "0", "1"):
        config = harness.compose(*words, f"outputs={tmp_path / str(rank)}")
        environment = {} if rank is None else {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        runs[rank] = harness.run_of(config)
        children[rank] = Child(lambda config=config: harness.execute(config) and 0, **environment)
    kept = []
    for rank, run in runs.items():
        assert children[rank].wait().returncode == 0
        kept.append(run.load(run.newest)["method"]["memory.rows"].tolist())
    assert kept[0] == kept[1] == kept[2] and len(set(kept[0])) == 20
