"""DyTox and Raw: losses against a slow form, what is frozen when, the memory, the teacher, and what a process leaves alone."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from cil.build import make
from cil.mistakes import Mistake
from cil.seeding import seed_everything
from cil.signals import Stopped
from tests import harness
from tests.methods.test_contract import StopsAt, fitted, small, trainer_of  # noqa: F401

FEW = ("method.memory=16", "method.later_epochs=2", "method.tune_epochs=2", "train.batch_size=8")
PARTS = ("train", "tune")


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
    if name == "tune" and not learner.tune_taught:
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
def test_herding_sees_what_it_is_told(small, tmp_path, herding):  # noqa: F811
    trainer, task = begun(small, tmp_path, "dytox", 1, f"method.herding={herding}", "+augment.train.randaugment=true")
    found = []
    for seed in (0, 1):
        seed_everything(seed)
        found.append(trainer.method.eval().chosen(task).rows.tolist())
    assert (found[0] == found[1]) == (herding == "plain" or not task.train.view.has_chance)


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
def test_resumes_inside_each_phase_to_the_same_bits(small, method, tmp_path):  # noqa: F811
    """Stopped at every fifth step of a later task, of which the memory is chosen in between."""
    config = small(method, *FEW)
    straight = fitted(config, tmp_path / "straight")
    looks = StopsAt(10**9)
    fitted(config, tmp_path / "counted", looks)
    inside = set()
    for when in range(looks.looks // 3, looks.looks, 5):
        stop = StopsAt(when)
        folder = tmp_path / f"resumed_{when}"
        try:
            fitted(config, folder, stop)
        except Stopped:
            state = trainer_of(config, folder).run
            inside.add(state.load(state.newest)["inside"] and state.load(state.newest)["inside"]["phase"])
            state.close()
        resumed = fitted(config, folder)
        harness.assert_same_bits(straight.run, resumed.run)
        assert torch.equal(straight.method.memory.rows, resumed.method.memory.rows)
    assert {0, 1} <= inside


def test_memory_is_one_on_any_number_of_processes(small, tmp_path, monkeypatch):  # noqa: F811
    """Each rank of a launcher holds the same images: `memory` counts all that there are, not those of a process."""
    found = []
    for rank in (None, 0, 1):
        for key, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2}.items() if rank is not None else ():
            monkeypatch.setenv(key, str(value))
        trainer = fitted(small("dytox", *FEW, "method.herding=augmented"), tmp_path / f"rank{rank}")
        found.append(trainer.method.memory.rows.tolist())
    assert found[0] == found[1] == found[2]
    assert len(set().union(*found)) == 2 * 6 <= 16


def test_numbers_of_dytox_on_a_hundred_classes():
    config = harness.compose("method=dytox", "scenario=cifar100_10tasks")
    made = make(config["method"], "method", make(config["backbone"], "backbone"))
    for index in range(10):
        made.begin_task(SimpleNamespace(index=index, classes=range(10 * index, 10 * index + 10)))
    count = sum(p.numel() for name, p in made.named_parameters() if not name.startswith("teacher."))
    assert count == 10_738_587  # 10.73 M and the head that tells new from old
    assert count - sum(p.numel() for p in made.apart.parameters()) == 10_733_584


@pytest.mark.parametrize(("words", "line"), [
    (["method.herding=best"], r"method\.herding=best is not known"),
    (["method.repeats=0"], r"method\.repeats=0 is not a whole number from 1 on"),
    (["method.mixup=0.0"], r"method\.mixup=0\.0 is not above 0"),
    (["method.smoothing=1.0"], r"method\.smoothing=1\.0 is not between 0 and 1"),
    (["method.divergence=-1.0"], r"method\.divergence=-1\.0 is below 0"),
    (["backbone=vit_tiny"], r"dytox needs a backbone that reads its patches with a token"),
])  # fmt: skip
def test_slips_are_named(small, tmp_path, words, line):  # noqa: F811
    with pytest.raises(Mistake, match=line):
        trainer_of(small("dytox", *words), tmp_path)


@pytest.mark.parametrize(("words", "wanted"), [
    (["method=dytox"], {"lr": 2.5e-4, "epochs": 500, "later_lr": None, "later_epochs": None, "tune_lr": 2.5e-5, "mixup": None}),
    (["method=raw"], {"lr": 2.5e-4, "epochs": 500, "later_lr": 4e-4, "later_epochs": 600, "tune_lr": 5e-5, "mixup": 0.8}),
    (["experiment=lpa/cifar100_dytox_plus"], {"lr": 2.5e-4, "epochs": 500, "later_lr": 4e-4, "later_epochs": 600,
                                             "tune_lr": 5e-5, "mixup": 0.8}),
])  # fmt: skip
def test_recipes_as_published(words, wanted):
    config = harness.compose(*words, *([] if "experiment" in words[0] else ["scenario=cifar100_10tasks"]))
    method = config["method"]
    assert {key: config["optim"].get(key, config["train"].get(key, method.get(key))) for key in wanted} == wanted
    assert (method["memory"], method["repeats"], method["tune_epochs"], config["train"]["batch_size"]) == (2000, 3, 20, 256)
    assert config["augment"]["train"]["randaugment"] and config["scenario"]["order"] == "dytox1"
    assert config["optim"]["weight_decay"] == 1e-6
