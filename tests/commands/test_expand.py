"""A sweep as one command a line, and what sbatch is told about it."""

import shlex
import subprocess

import pytest

from cil.commands import expand
from cil.launch.compose import compose, lines
from tests import harness


def told(capsys, monkeypatch, *words: str, code: int = 0) -> list[str]:
    monkeypatch.setattr("sys.argv", ["expand.py", *words])
    assert expand.main() == code
    said = capsys.readouterr()
    return (said.err if code else said.out).splitlines()


def test_one_complete_command_a_line(capsys, monkeypatch):
    found = told(capsys, monkeypatch, "method=finetune,joint", "seed=range(0,2)", 'scenario.order="numpy:1"', "train.epochs=2")
    assert len(found) == 4
    assert found[1] == """python run.py 'scenario.order="numpy:1"' train.epochs=2 method=finetune seed=1"""
    configs = [compose(*shlex.split(line)[2:]) for line in found]
    assert [(c["method"]["_target_"].split(".")[2], c["seed"]) for c in configs] == [
        ("finetune", 0), ("finetune", 1), ("joint", 0), ("joint", 1)]  # fmt: skip
    assert {c["scenario"]["order"] for c in configs} == {"numpy:1"}


def test_what_an_experiment_sweeps_over_is_spelled_out():
    words = ["experiment=attriclip_table6/glyphs_10tasks", "method.key_loss=mse"]
    assert list(lines([*words, "seed=4,5"])) == [[*words, "seed=4"], [*words, "seed=5"]]


def test_finished_runs_are_left_out(capsys, monkeypatch, data_root, outputs):
    words = ["method=class_mean", "backbone=resnet_tiny", *harness.SMALL, f"outputs={outputs}", f"data.root={data_root}"]
    harness.execute(compose(*words, "seed=1"))
    capsys.readouterr()
    assert len(told(capsys, monkeypatch, *words, "seed=0,1,2")) == 3
    left = told(capsys, monkeypatch, "--missing", *words, "seed=0,1,2")
    assert [line.split()[-1] for line in left] == ["seed=0", "seed=2"]


def test_a_group_of_runs_that_are_trained_together_is_one_command(capsys, monkeypatch):
    found = told(capsys, monkeypatch, "--stacked", "method=l2p", "method.length=4,5", "modifier=none,pgp", "seed=0,1")
    assert found == [
        f"python run.py -m method=l2p method.length={length} modifier=none,pgp seed=0,1 hydra/launcher=stacked"
        for length in (4, 5)
    ]
    (single,) = told(capsys, monkeypatch, "--stacked", "method=l2p", "seed=0")
    assert single == "python run.py method=l2p seed=0"


def test_the_one_yaml_serves_sbatch(capsys, monkeypatch, tmp_path):
    file = tmp_path / "sweep.txt"
    file.write_text("python run.py seed=0\npython run.py seed=1\n")
    (line,) = told(capsys, monkeypatch, "--options", str(file))
    assert {"--array=1-2%64", "--gres=gpu:1", "--mem=32G", "--time=240", "--signal=B:USR1@120"} <= {*line.split()}
    words = [f"hydra.launcher.{word}" for word in ("partition=long", "gres=null", "mem_gb=null", "mem_per_cpu=8G")]
    words += [f"+hydra.launcher.additional_parameters.{word}" for word in ("exclusive=true", "mail-type=END")]
    (line,) = told(capsys, monkeypatch, "--options", str(file), *words)
    assert {"--partition=long", "--mem-per-cpu=8G", "--requeue", "--exclusive", "--mail-type=END"} <= {*line.split()}
    assert "--gres" not in line and "--mem=" not in line


def test_random_values_are_the_same_for_one_seed_and_within_their_range(capsys, monkeypatch):
    ranges = ["optim.lr=tag(log,interval(0.001,0.1))", "train.epochs=int(interval(2,5))", "train.batch_size=16,32"]
    words = ["method=finetune", *ranges, "scenario.validation=0.1"]
    ten = told(capsys, monkeypatch, "--draws", "10", *words)
    assert told(capsys, monkeypatch, "--draws", "3", *words) == ten[:3]
    (line,) = told(capsys, monkeypatch, "method=finetune", "hydra/launcher=submitit_slurm", "hydra.launcher.mem_gb=8")
    assert line == "python run.py method=finetune", "each command is one run"
    assert len(told(capsys, monkeypatch, "--draws", "9", "method=finetune", "seed=0,1")) == 2, "each run once"
    assert told(capsys, monkeypatch, "--draws", "10", "--draw-seed", "1", *words) != ten
    configs = [compose(*shlex.split(line)[2:]) for line in ten]
    lrs = [config["optim"]["lr"] for config in configs]
    assert len(set(lrs)) == 10 and all(0.001 <= lr <= 0.1 for lr in lrs) and min(lrs) < 0.01 < max(lrs)
    assert {c["train"]["epochs"] for c in configs} <= {2, 3, 4, 5} and {c["train"]["batch_size"] for c in configs} == {16, 32}
    assert {config["scenario"]["validation"] for config in configs} == {0.1}


@pytest.mark.parametrize(("words", "line"), [
    (["--draws", "many", "seed=0,1"], "error: --draws many is not a whole number of at least 1; type --draws 20"),
    (["--draws", "2", "seed=0"], "error: no setting has several values to draw from"),
    (["--draw-seed", "2", "seed=0,1"], "error: --draw-seed chooses random values; type --draws 20 too"),
    (["--draws", "2", "optim.lr=tag(log,interval(0,1))"], "error: optim.lr=tag(log,interval(0,1)) holds no numbers to draw"),
    (["optim.lr=interval(0.1,1)"], "error: interval(…) is a range, of which a grid has no values"),
    (["--options", "nowhere.txt"], "error: --options nowhere.txt: there is no such file"),
    (["method=finetune", "seed=0,,1"], "error: "),
    (["method=glob(*)"], "error: method=glob(*) is not spelled out"),
    (["method=finetune,jointt"], "error: method=jointt is not known; did you mean joint?"),
    (["--draws", "2", "method=finetune", "train.epochs=interval(1.2,1.8)"], "error: train.epochs=1."),
    (["--options", "README.md"], "error: --options README.md: '# A runner for class-incremental learnin' starts no run; type"),
    (["--missing", "method=finetun"], "error: method=finetun is not known; did you mean finetune?"),
])  # fmt: skip
def test_a_mistake_is_one_line(capsys, monkeypatch, words, line):
    (said,) = told(capsys, monkeypatch, *words, code=2)
    assert said.startswith(line)


def test_the_batch_script_is_one_that_bash_can_read():
    script = harness.ROOT / "scripts" / "array.sbatch"
    assert subprocess.run(["bash", "-n", script]).returncode == 0
