"""A sweep by launchers that need no cluster: its runs are where they always are, and a mistake in one leaves the others."""

import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from functools import partial
from types import SimpleNamespace

import pytest
import submitit
import yaml
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from submitit.core.utils import UncompletedJobError

from cil.common.errors import UserError, explain
from cil.launch import run as front_door
from cil.launch import stacked
from cil.launch.sweep import Named, Sweep, Watched, brief
from hydra_plugins.cil_stacked import StackedLauncher
from tests import harness
from tests.commands.test_reproduce import finished_run


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_launcher_runs_all_and_tells_of_one_that_cannot(data_root, outputs, tmp_path, launcher):
    words = ["method=finetune", "backbone=resnet_tiny", "scenario.tasks=3,2,7", *harness.SMALL, f"outputs={outputs}"]
    words = [sys.executable, harness.ROOT / "run.py", "-m", f"hydra/launcher={launcher}", *words, f"data.root={data_root}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    errors = [line.partition(";")[0] for line in ended.stderr.splitlines()]
    assert errors[:3] == [
        *(f"error: glyphs_10tasks: 100 classes do not split into {tasks} equal tasks" for tasks in (3, 7)),
        "this concerns 2 of 3 runs",
    ]
    failed = [f"error: finetune scenario.tasks={tasks} seed=0: as told above" for tasks in (3, 7)]
    assert sorted(errors[3:]) == failed, "each failed run in one line, and nothing else"
    (done,) = outputs.glob("*/*/*/seed*/DONE")
    lines = ended.stdout.splitlines()
    (line,) = (line for line in lines if line.startswith("finetune scenario.tasks=2 seed=0  "))
    assert done.parent.parent.name in line and all(len(line) <= 80 or str(outputs) in line for line in lines)
    assert "3 runs: " in ended.stdout and "2 failed" in ended.stdout and "1 finished" in ended.stdout
    assert ended.stdout.count("method  ") == 1 and "percent correct on each task" not in ended.stdout
    if launcher == "submitit_local":
        jobs = re.findall(r"^job (\d+): scenario.tasks=(\d)$", ended.stdout, re.M)
        assert [tasks for _, tasks in jobs] == ["3", "2", "7"] and f"logs: {outputs}/.submitit/JOB/" in ended.stdout
        logs = [outputs / ".submitit" / job / f"{job}_0_log" for job, _ in jobs]
        assert "percent correct on each task" in logs[1].with_name(f"{logs[1].name}.out").read_text()
        assert "error: glyphs_10tasks" in logs[0].with_name(f"{logs[0].name}.err").read_text()
    summary = harness.RunDir(done.parent).summary()
    assert summary["command"].startswith("cil method=finetune")  # and not the launcher's own
    straight = harness.compose(*words[4:6], "scenario.tasks=2", *words[7:-2], f"outputs={outputs}_straight", words[-1])
    harness.assert_same_bits(harness.RunDir(done.parent), harness.execute(straight))


@pytest.mark.parametrize(("text", "line"), [
    ("Job 7_1 (task: 0) with path /o/7_1/7_1_0_result.pkl\nhas not produced any output (state: NODE_FAIL)\nError stream",
     "job 7_1 ended without a result (NODE_FAIL), see /o/7_1/7_1_0_log.err; type the same command to resume"),
    ("Job not requeued because: timed-out too many times.", "a job reached its time limit too often; type the same command"),
    ("sbatch: error: invalid partition: x", "the scheduler refused (sbatch: error: invalid partition: x); see conf/hydra"),
    ("Job (task=0) failed during processing with trace:", None),
])  # fmt: skip
def test_what_submitit_says_in_one_line(text, line):
    said = explain(UncompletedJobError(text))
    assert said is None if line is None else said.startswith(line)


def printed(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["run.py", *words])
    code = front_door.front_door()
    return code, *capsys.readouterr()


def test_options_may_stand_anywhere(monkeypatch, capsys):
    """-m behind or between settings, and with --cfg: the configuration of each run."""
    ways = (["-m", "method=finetune", "seed=0,1"], ["method=finetune", "seed=0,1", "-m"], ["method=finetune", "-m", "seed=0,1"])
    told = [printed(monkeypatch, capsys, *words, "--cfg", "job") for words in ways]
    assert told[0] == told[1] == told[2]
    code, out, err = told[0]
    assert (code, err) == (0, "")
    first, second = yaml.safe_load_all(out)
    assert (first["seed"], second["seed"]) == (0, 1) and first["method"] == second["method"]
    assert out.startswith("# 1/2: python run.py method=finetune seed=0\n") and "\n# 2/2: " in out
    code, out, _ = printed(monkeypatch, capsys, "method=finetune", "--cfg", "job", "optim.lr=0.5", "-p", "optim")
    assert code == 0 and "lr: 0.5" in out and "method:" not in out
    code, _, err = printed(monkeypatch, capsys, "seed=0,1", "--info", "defaults", "-m")
    assert code == 2 and err == "error: --multirun and --info exclude each other; type one of them\n"
    code, _, err = printed(monkeypatch, capsys, "-m", "method=finetune,class_mean", "optim.lr=0.1")
    assert code == 2 and err.startswith("error: optim.lr is not a setting of all runs of this sweep; ")


def job(outcome: object) -> JobReturn:
    failed = isinstance(outcome, Exception)
    return JobReturn(status=JobStatus.FAILED if failed else JobStatus.COMPLETED, _return_value=outcome)


class Executed:
    """Stands in for submitit's executor: a job per call, with what became of it."""

    outcomes: list[object] = []

    def __init__(self, **given: object) -> None:
        pass

    def update_parameters(self, **given: object) -> None:
        pass

    def map_array(self, function: object, *given: list) -> list:
        def results(outcome: object) -> list:
            if isinstance(outcome, UncompletedJobError):
                raise outcome
            return [job(outcome)]

        return [SimpleNamespace(job_id=f"7_{n}", done=lambda: True, results=partial(results, outcome))
                for n, outcome in enumerate(self.outcomes)]  # fmt: skip


def test_every_lost_job_of_a_cluster_is_named_and_a_bug_ends_in_a_traceback(monkeypatch, capsys, tmp_path, data_root):
    lost = [UncompletedJobError(f"Job 7_{n} (task: 0) with path /o/7_{n}/7_{n}_0_result.pkl\nhas not produced any output "
                                "(state: OUT_OF_MEMORY)\nError stream") for n in (0, 1)]  # fmt: skip
    monkeypatch.setattr(Executed, "outcomes", [*lost, UserError("no weights")])
    monkeypatch.setattr(submitit, "AutoExecutor", Executed)
    words = ["-m", "hydra/launcher=submitit_slurm", "method=finetune", "seed=0,1,2", f"outputs={tmp_path}"]
    code, out, err = printed(monkeypatch, capsys, *words)
    assert code == 2 and err.splitlines() == [
        *(
            f"error: seed={n}: job 7_{n} ended without a result (OUT_OF_MEMORY), see /o/7_{n}/7_{n}_0_log.err; type the same "
            "command to resume"
            for n in (0, 1)
        ),
        "error: seed=2: no weights",
    ]
    assert "job 7_2: seed=2\n3 jobs sent; " in out and "3 runs: 3 failed" in out
    monkeypatch.setattr(Executed, "outcomes", [lost[0], ZeroDivisionError("of ours"), UserError("no weights")])
    Executed.outcomes[1].in_run = True
    with pytest.raises(ZeroDivisionError):
        printed(monkeypatch, capsys, *words)
    err = capsys.readouterr().err
    assert "error: seed=1: ZeroDivisionError: of ours" in err and "error: seed=2: no weights" in err


def test_a_launcher_that_is_not_known_is_told_of_when_it_has_ended(capsys, tmp_path):
    """A result lies where its job put it: `machine=auto` may name another folder on this machine."""
    config = SimpleNamespace(
        hydra=SimpleNamespace(sweep=SimpleNamespace(dir="o"), sweeper=SimpleNamespace(_target_="a.Search"))
    )
    elsewhere = finished_run(tmp_path, ["method=l2p"], [[90], [70, 80]])
    done = job(None)
    done.hydra_cfg = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(tmp_path / elsewhere["address"])}}})
    jobs = [job(UserError("no weights")), job(UserError("no data")), done]
    launcher = SimpleNamespace(config=config, launch=lambda overrides, first: jobs)
    sweep = Sweep(["method=finetune", "log.live=false"])
    returned = Watched(launcher, sweep).launch([["method=finetune", f"seed={n}", "log.live=False"] for n in (0, 1, 2)], 0)
    out, err = capsys.readouterr()
    assert err == "error: seed=0: no weights\nerror: seed=1: no data\n"
    assert out.splitlines()[-1].split() == ["seed=2", "75.0", "20.0", "done", elsewhere["digest"]]
    with pytest.raises(UserError, match="no data"):
        returned[1].return_value  # noqa: B018
    assert not capsys.readouterr().err, "Hydra says nothing more"
    assert [one.status for one in returned] == [JobStatus.FAILED] * 2 + [JobStatus.COMPLETED], "a search is told which failed"


def test_a_rate_that_a_search_drew_is_shown_with_four_digits(capsys):
    config = SimpleNamespace(
        hydra=SimpleNamespace(sweep=SimpleNamespace(dir="o"), sweeper=SimpleNamespace(_target_="a.Search"))
    )
    launcher = SimpleNamespace(config=config, launch=lambda overrides, first: [job(UserError("no weights"))])
    watched = Watched(launcher, Sweep(["method=finetune"]))
    for place, rate in enumerate(("0.0030951149738991926", "0.5")):
        watched.launch([["method=finetune", f"optim.lr={rate}"]], place)
    assert capsys.readouterr().err == "error: optim.lr=0.003095: no weights\nerror: optim.lr=0.5: no weights\n"


def test_a_name_fits_its_column():
    assert brief("l2p optim.lr=0.01 seed=0") == "l2p optim.lr=0.01 seed=0"
    assert brief("clip_prompt+pgp method.pull=0.123456 seed=0") == "clip_prompt+pgp pull=0.123456 seed=0"
    assert brief("dualprompt+pgp reading=paper method.pull=0.123456789 seed=0") == "dualprompt+pgp paper 0.123456789 seed=0"
    long = brief(f"dualprompt data.path=/{'far/' * 30} seed=0")
    assert len(long) == 40 and long.startswith("dualprompt /far/") and long.endswith("far/ seed=0")


def test_lines_of_a_process_carry_its_name():
    into = io.StringIO()
    with redirect_stdout(Named(into, "finetune seed=0")):
        print("decoding: 1 of 2\ndecoding: 2", "of 2")
    assert into.getvalue() == "finetune seed=0: decoding: 1 of 2\nfinetune seed=0: decoding: 2 of 2\n"


def test_a_stacked_sweep_composes_each_run_once(monkeypatch):
    """Hydra asks for a run's configuration to check the sweep and to launch it, `train_together` in between."""
    calls = []

    def compose(master_config, sweep_overrides):
        calls.append(sweep_overrides)
        return OmegaConf.create({"hydra": {"job": {}}})

    loader = SimpleNamespace(repository=None, load_sweep_config=compose)
    launcher = StackedLauncher()
    launcher.setup(hydra_context=SimpleNamespace(config_loader=loader), task_function=None, config=OmegaConf.create())
    checked = loader.load_sweep_config(master_config=launcher.config, sweep_overrides=["seed=0"])
    together = []
    monkeypatch.setattr(stacked, "train_together", lambda jobs, compose: together.extend(map(compose, map(list, jobs))))
    launcher.train_together([("seed=0",)])
    launched = []
    monkeypatch.setattr(BasicLauncher, "launch", lambda self, jobs, first: launched.extend(
        self.hydra_context.config_loader.load_sweep_config(self.config, list(words)) for words in jobs))  # fmt: skip
    launcher.launch([("seed=0",)], 0)
    assert calls == [["seed=0"]] and together[0] is checked and launched[0] is checked
    launcher.launch([("seed=0",)], 1)
    assert launched[1] is not checked, "the number of an earlier job is not left in it"
