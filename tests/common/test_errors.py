"""Bad input gets one clear line and exit code 2, never a traceback."""

import errno
import sys

import pytest
import torch

from cil.commands import tables
from cil.common.errors import explain, nearest
from cil.launch import run as front_door
from cil.launch.compose import compose

SMALL = ["scenario=glyphs_10tasks", "machine=cpu", "log.live=false"]  # what comes later on the command line wins
FEW = ["dataset.train_per_class=9", "dataset.test_per_class=3"]


@pytest.fixture
def told(monkeypatch, capfd, data_root, outputs):
    """Words of a command line → what run.py says on its error stream."""

    def tell(*words: str, code: int = 2) -> str:
        monkeypatch.setattr(sys, "argv", ["run.py", f"outputs={outputs}", f"data.root={data_root}", *SMALL, *words])
        assert front_door.front_door() == code
        said = capfd.readouterr().err
        assert "Traceback" not in said and said.count("\n") == code // 2, said
        return said.strip()

    return tell


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["method=finetun"], "error: method=finetun is not known; did you mean finetune?"),
        (["modifier=pgpp"], "error: modifier=pgpp is not known; did you mean pgp?"),
        (["method=finetune", "train.epoch=3"], "error: there is no setting train.epoch; did you mean train.epochs?"),
        (["method=finetune,joint"], "error: method=finetune,joint names several values; type -m method=finetune,joint"),
        (["seed=range(3)"], "error: seed=range(3) names several values; type -m 'seed=range(3)' for a sweep"),
        (["optim.lr=tag(log,interval(1,2))"], "error: optim.lr=tag(log,interval(1,2)) names several values; type -m hyd"),
        (["method="], "error: method= names no option; choose from aper, "),
        (["method=[finetune]"], "error: method=[finetune] is a list, and method has one option; type method=finetune"),
        (["modifier=[pgp,pgp]"], "error: modifier=[pgp,pgp] names pgp twice; leave one out"),
        (["-m", "seed=0,0"], "error: seed=0,0 names 0 twice; leave one out"),
        (["modifier=[pgp,class_means]", "method=l2p", "optim.lrr=3"], "error: there is no setting optim.lrr; did you mean"),
        (["-m", "method=finetune,finetun", "optim.lrr=3"], "error: there is no setting optim.lrr; did you mean optim.lr?"),
        (["method=EWC"], "error: method=EWC is not known; did you mean ewc?"),
        (["method=finetune", "+optim.lr=0.3"], "error: optim.lr is a setting already; leave out the +"),
        (["method=class_mean", "optim.lr=0.3"], "error: there is no setting optim.lr, since optim has none with these options"),
        (["train=5"], "error: train=5 replaces a group of settings; type one of them, as in train.NAME=VALUE"),
        (["hydra/launcher=joblib"], "error: hydra/launcher=joblib is for several runs; type -m too, or leave it out"),
        (["optim.betas=0.9,0.99"], "error: optim.betas=0.9,0.99 names several values; type -m optim.betas=0.9,0.99 for a"),
        (["…"], "error: … stands for more settings; type them as key=value"),
        (["methd=joint"], "error: there is no setting methd; did you mean method?"),
        (["optim.lr"], "error: 'optim.lr' cannot be read; type key=value"),
        (["optim=sgd"], "error: optim.lr has no value; type optim.lr=…"),
        (["seed=a"], "error: seed=a is not a whole number from 0 to 4294967295; type seed=0"),
        (["method=finetune", "train.epochs=0"], "error: train.epochs=0 is not a whole number from 1 on"),
        (["scenario.tasks=7"], "error: glyphs_10tasks: 100 classes do not split into 7 equal tasks; set scenario.first, or"),
        (["scenario.order=iCaRL"], "error: scenario.order=iCaRL is an order of cifar100 and imagenet100_first, this"),
        (["method=continual_clip", "backbone=resnet_tiny"], "error: continual_clip needs a backbone that encodes class names"),
        (["machine.device=tpu"], "error: machine.device=tpu is not known; type auto, cpu, cuda or cuda:1"),
        (["machine.precision=fp8"], "error: machine.precision=fp8 is not known; choose from auto, bf16, fp32"),
        (["method._target_=os.system"], "error: method._target_=os.system is refused: a target starts with cil. or torch"),
        (["+method.foo=1"], "error: method.foo is not a setting of ClassMean"),
        (["method=finetune", "optim=none"], "error: finetune has something to train but optim=none; type optim=sgd"),
        (["scenario=cifar100_10tasks", "backbone=resnet_tiny"], "error: dataset cifar100 is not there (looked for"),
        (["backbone.weights=/nowhere.pt"], "error: weights /nowhere.pt are not there"),
        (["backbone.sha256=abc"], "error: weights shipped:vit_tiny.safetensors have sha256"),
        (["method=continual_clip", "method.templates=[photo]"], "error: method.templates wants at least one text with one {}"),
        (["train.clip=-1"], "error: train.clip=-1 is not a number above 0 or null; type train.clip=1.0"),
        (["train.clip=0"], "error: train.clip=0 is not a number above 0 or null"),
        (["method=finetune", "schedule.every=foo"], "error: schedule.every=foo is not known; choose from epoch, step"),
        (["scenario=latin_to_greek", "scenario.heads=joined"], "error: scenario.heads=joined is not known; did you"),
        (["method=finetune", "backbone=resnet_tiny", "train.batch_size=1"], "error: train.batch_size=1 is too few, since R"),
        (["method=l2p", "method.vote_train=true", "train.batch_size=1"], "error: train.batch_size=1 is too few, since t"),
        (["hydra.run.dir=x"], "error: hydra.run.dir does not move a run; type outputs=DIR"),
        (["--foo"], "error: unrecognized arguments: --foo; see python run.py --help"),
        (["method=finetune", "optim=none", "optim.weight_decay=abc"], "error: optim.weight_decay=abc is not a number f"),
        (["optim._target_=''", "method=finetune"], "error: optim has no _target_"),
        (["scenario.tasks=2.5"], "error: scenario.tasks=2.5 is not a whole number from 1 on"),
        (["scenario.first=abc"], "error: scenario.first=abc is not a whole number"),
        (["seed=18446744073709551616"], "error: seed=18446744073709551616 is not a whole number from 0 to 4294967295; type"),
        (["scenario.name=.."], "error: scenario.name=.. becomes a folder; use letters"),
        (["scenario.name=a/b"], "error: scenario.name=a/b becomes a folder; use letters"),
        (["method=1.5"], "error: method=1.5 is not the name of an option; choose from"),
        (["scenario=-1"], "error: scenario=-1 is not the name of an option; choose from"),
        (["log={a:1}"], "error: log={a:1} is not the name of an option; choose from console"),
        (["experiment=foo"], "error: experiment=foo is not known; choose from"),
        (["experiment=pgp_table5"], "error: experiment=pgp_table5 is a folder; type experiment=pgp_table5/ and one of"),
        (["experiment=pgp_table5/cifar100_10task"], "error: experiment=pgp_table5/cifar100_10task is not known; did you mean"),
        (["recipe=qqq"], "error: recipe=qqq is not known; choose from aper, ari"),
        (["-p", "scenario"], "error: --package says how a configuration is printed; type --cfg job too"),
        (["--resolve"], "error: --resolve says how a configuration is printed; type --cfg job too"),
        (["method._target_=[1]"], "error: method._target_=[1] is not"),
        (["dataset._target_=7"], "error: dataset._target_=7 is not a word"),
        (["optim._partial_=nan", "method=finetune"], "error: optim._partial_=nan is not true or false"),
        (
            ["backbone.architecture=vit_basepatch"],
            "error: backbone.architecture=vit_basepatch is not a model of timm; did you mean",
        ),
        (["backbone.changes.num_heads=5"], "error: backbone cannot be made of these settings (AssertionError: dim should be"),
        (["dataset.jitter.noise=nan"], "error: dataset.jitter.noise=nan is not a finite number from 0 to 1; type"),
        (["dataset.jitter.noise=-1"], "error: dataset.jitter.noise=-1 is not a number from 0 to 1; type"),
        (["dataset.jitter.scale=1e30"], "error: dataset.jitter.scale=1e+30 is not a number from 0 to below 1; type"),
        (["dataset.jitter.shear=true"], "error: dataset.jitter.shear=True is not a number from 0 to 1; type"),
        (["method=finetune", "optim.lr=true"], "error: optim.lr=True is not a number above 0 to 1000; type"),
        (["method=finetune", "optim.lr=0"], "error: optim.lr=0 is not a number above 0 to 1000; type"),
        (["schedule=milestones", "schedule.at=[-1]"], "error: schedule.at=[-1] is not a list, each a number from 0 on"),
        (["schedule=cosine_above", "schedule.least=-2"], "error: schedule.least=-2 is not a number from 0 to 1; type"),
        (["schedule=warm_cosine", "schedule.first=-1"], "error: schedule.first=-1 is not a number from 0 on; type"),
        (["method=ewc", "method.strength=-1"], "error: method.strength=-1 is not a number from 0 to 1000000; type"),
        (["method=der_mcg", "method.temperature=-1"], "error: method.temperature=-1 is not a number above 0; type"),
        (["method=ranpac", "method.scale=-1"], "error: method.scale=-1 is not a number above 0 to 1000; type"),
        (["method=dytox", "method.mixup=99999999"], "error: method.mixup=99999999 is not a number above 0 to 100"),
        (["method=l2p", "method.pull=1e30"], "error: method.pull=1e+30 is not a number from 0 to 1000000; type"),
        (["method=l2p", "modifier=pgp", "modifier.pgp.energy={}"], "error: modifier.pgp.energy={} changes nothing"),
        (["scenario.order=[a,b]"], "error: scenario.order: a is neither a label nor a class name; type"),
        (["scenario.name=a/b"], "error: scenario.name=a/b becomes a folder"),
        (["dataset.train_per_class=0"], "error: dataset.train_per_class=0 is not a whole number from 1 on; type"),
        (["dataset.train_per_class=abc"], "error: dataset.train_per_class=abc is not a whole number"),
        (["+dataset.jitter.foo=1"], "error: dataset.jitter.foo is not a setting of Jitter; choose from noise, rotation"),
        (["method=finetune", "optim.lr=-1", *FEW], "error: optim.lr=-1 is not a number above 0 to 1000; type optim.lr=0.01"),
        (["method=finetune", "+optim.foo=1"], "error: optim.foo is not a setting of SGD"),
        (["+schedule.foo=1"], "error: schedule.foo is not a setting of constant"),
        (["machine.checkpoint_seconds=abc"], "error: machine.checkpoint_seconds=abc is not a number from 0 on"),
        (["machine.keep_checkpoints=foo"], "error: machine.keep_checkpoints=foo is not known; choose from all, newest"),
        (["machine.device=cpu:x"], "error: machine.device=cpu:x is not known"),
        (["machine.device=null"], "error: machine.device=None is not a word"),
        (["data.root=null"], "error: data.root=None is not a word"),
        (["+foo=1"], "error: there is no setting foo"),
        (["+train.foo=1"], "error: there is no setting train.foo"),
        (["~train"], "error: train is missing"),
        (["train=null"], "error: train is missing"),
        (["~seed"], "error: seed is missing"),
        (["~method"], "error: method is missing; leave out"),
        (["~family"], "error: family is missing; leave out"),
        (["~scenario"], "error: scenario is missing; leave it as"),
        (["modifier=[a,b]"], "error: modifier=b is not known; see python run.py --help"),
        (["method._target_=foo"], "error: method._target_=foo is not a class of a method's file"),
        (["augment.train.crop=padde"], "error: augment.train.crop=padde is not known; did you mean padded?"),
    ],
)  # fmt: skip
def test_one_line(told, words, line):
    assert told(*words).startswith(line)


def test_cuda_where_there_is_none(told, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert told("machine=cuda") == "error: machine=cuda, but torch sees no GPU here; type machine=cpu (or machine=auto)"


def test_no_network_for_weights(told, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    line = told("backbone=vit_b16_in21k")
    assert line.startswith("error: weights vit_b16_in21k are not on this machine and HF_HUB_OFFLINE is set")
    assert "type make weights NAME=vit_b16_in21k" in line and line.endswith("or backbone.weights=FILE")


def test_a_torn_checkpoint_is_refused_and_named(told, outputs):
    words = ["method=finetune", "backbone=resnet_tiny", "train.epochs=1", "scenario.tasks=2", *FEW]
    told(*words, code=0)
    run = next(outputs.glob("*/finetune/*/seed0"))
    (run / "DONE").unlink()
    for damage in (lambda b: b[: len(b) // 2], lambda b: b[:2000] + bytes([b[2000] ^ 1]) + b[2001:]):
        file = run / "task_01.pt"
        whole = file.read_bytes()
        file.write_bytes(damage(whole))
        assert f"checkpoint {file} is damaged and was not used; delete it" in told(*words)
        file.write_bytes(whole)
    file.unlink()
    told(*words, code=0)  # from the start


def test_a_checkpoint_of_other_weights_is_refused(told, outputs):
    words = ["method=finetune", "backbone=resnet_tiny", "train.epochs=1", "scenario.tasks=2", *FEW]
    told(*words, code=0)
    run = next(outputs.glob("*/finetune/*/seed0"))
    (run / "DONE").unlink()
    state = torch.load(run / "task_01.pt", weights_only=True)
    state["identity"]["data_digest"] = "0" * 16
    torch.save(state, run / "task_01.pt")
    assert "was made with data_digest 0000000000000000, now it is" in told(*words)


def test_a_loss_that_is_no_number_stops_the_run(told):
    line = told(
        "method=finetune",
        "backbone=resnet_tiny",
        "optim.lr=1000",
        "optim.momentum=0.99",
        "train.epochs=20",
        "scenario.tasks=2",
        *FEW,
    )
    assert line.startswith("error: loss ce is nan at task 1/2  train, epoch ") and "training images" in line
    assert line.endswith("lower optim.lr or set train.clip=1.0")


def test_a_folder_that_cannot_be_written(told, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert "type outputs=DIR" in told(f"outputs={file}/x")


def test_disk_and_memory():
    assert "is full; free some space" in explain(OSError(errno.ENOSPC, "No space left on device", "x/task_00.pt"))
    assert "is full" in explain(RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing"))
    assert "cannot be read or written" in explain(PermissionError(errno.EACCES, "Permission denied", "x"))
    assert "lower train.batch_size" in explain(torch.OutOfMemoryError("CUDA out of memory."))
    assert "lower train.batch_size" in explain(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert explain(KeyError("a fault of ours")) is None


def test_a_sweep_goes_on_after_a_mistake(told, outputs, monkeypatch, capfd, data_root):
    words = ["-m", "method=continual_clip,class_mean", "backbone=resnet_tiny", f"outputs={outputs}", f"data.root={data_root}"]
    monkeypatch.setattr(sys, "argv", ["run.py", *words, *SMALL, *FEW])
    assert front_door.front_door() == 2
    assert capfd.readouterr().err.count("error: ") == 1
    assert len(list(outputs.glob("*/class_mean/*/seed0/DONE"))) == 1


def test_other_weights_under_the_same_name_do_not_get_the_old_number(told, tmp_path):
    from cil.engine.build import make
    from tests.harness import compose

    backbone = make(compose("backbone=resnet_tiny")["backbone"], "backbone")
    words = ["backbone=resnet_tiny", f"backbone.weights={tmp_path / 'w.pt'}", "scenario.tasks=2", *FEW]
    torch.save(backbone.state_dict(), tmp_path / "w.pt")
    told(*words, code=0)
    told(*words, code=0)  # done already
    torch.save({key: value * 2 for key, value in backbone.state_dict().items()}, tmp_path / "w.pt")
    assert "is no longer the file that" in told(*words)


@pytest.mark.parametrize(("words", "line"), [
    (["scenario.sizes=[0,100]"], "scenario.sizes=[0, 100] is not a list of the numbers of classes of the tasks, each 1 or"),
    (["scenario.sizes=[true,99]"], "scenario.sizes=[True, 99] is not a list of the numbers of classes of the tasks"),
    (["scenario.sizes=3"], "scenario.sizes=3 is not a list of the numbers of classes of the tasks, each 1 or more; type"),
    (["scenario.sizes=[]"], "scenario.sizes=[] is not a list of the numbers"),
    (["scenario.sizes=[50,50]", "scenario.tasks=5"], "scenario.sizes=[50,50] is used in place of scenario.tasks=5;"),
    (["scenario.sizes=[50,50]", "scenario.first=5"], "scenario.sizes=[50,50] is used in place of scenario.first=5;"),
    (["scenario.sizes=inc10"], "scenario.sizes=inc10 is not a list of the numbers of classes"),
    (["scenario.sizes=b50_inc10", "scenario.tasks=6"], "scenario.sizes=b50_inc10 is used in place of scenario.tasks=6;"),
    (["scenario.sizes=b50_inc10", "scenario.first=40"], "scenario.sizes=b50_inc10 is used in place of scenario.first=40;"),
])  # fmt: skip
def test_sizes_of_tasks_that_cannot_be_used(told, words, line):
    assert told(*words).startswith(f"error: {line}")


def test_sizes_may_stand_beside_the_same_number_of_tasks():
    compose("scenario.sizes=[50,20,30]", "scenario.tasks=3", "scenario.first=50")
    compose("scenario.sizes=null", "scenario.tasks=5")
    compose("scenario.sizes=b50_inc10", "scenario.first=50")


def test_nearest():
    assert nearest("finetun", ["finetune", "joint"]) == "did you mean finetune?"
    assert nearest("zzz", ["b", "a"]) == "choose from a, b"
    assert nearest("zzz", []) == "there is none"
    many = [f"class {number}" for number in range(100)]
    assert nearest("clas 7", many) == "did you mean class 7?"
    assert nearest("zzz", many) == "choose one of 100, such as class 0, class 1, class 10"
    assert nearest("zzz", many, "cil options") == "see cil options"


def test_an_unknown_setting_is_told_the_command_that_lists_them(told):
    assert told("qqqq.zzzz=3").endswith("there is no setting qqqq.zzzz; see python run.py --cfg job")


def test_a_misspelt_experiment_of_a_table_is_told_the_known_ones(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["tables", "--outputs", str(tmp_path), "--experiment", "misspelt"])
    assert tables.main() == 2
    assert "experiment=misspelt is not known; choose from attriclip_table6, " in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["tables", "--outputs", str(tmp_path), "--experiment", "pgp_table5"])
    assert tables.main() == 2
    assert "experiment=pgp_table5 is a folder; type experiment=pgp_table5/ and one of " in capsys.readouterr().err
