"""run.py end to end: second call exits at DONE; killed anywhere, it goes on to the same bits; two processes do not mix."""

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from cil.common.errors import UserError
from cil.common.signals import EXIT_CODE
from cil.launch import run as front_door
from cil.runs.run_folder import RunDir
from tests import harness

WORDS = ("method=finetune", "backbone=resnet_tiny", "scenario.tasks=5", "train.epochs=2", "optim.lr=0.01",
         "train.batch_size=64", "machine.checkpoint_seconds=0")  # fmt: skip


def in_child(config: dict, *, keep: bool = False) -> int:
    """A process that runs `config`; forked, so that it does not pay for the imports again."""
    child = os.fork()
    if child:
        return child
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts its background jobs deaf to Ctrl-C
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        harness.execute(config)
    except front_door.Stopped:
        os._exit(EXIT_CODE)
    except (UserError, KeyboardInterrupt):
        os._exit(2)
    os._exit(0)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def straight(tmp_path_factory, data_root):
    """One uninterrupted run, and how long it took."""
    config = harness.compose(f"outputs={tmp_path_factory.mktemp('straight')}", f"data.root={data_root}", *harness.SMALL, *WORDS)
    began = time.perf_counter()
    assert wait(in_child(config)) == 0
    return harness.run_of(config), time.perf_counter() - began


def test_help_fits_a_terminal_and_begins_with_examples(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["run.py", "--help"])
    assert harness.front_door.front_door() == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and "python run.py method=finetune" in lines[3]
    assert any(line.startswith("method: aper") for line in lines) and not any(line.startswith("recipe") for line in lines)


def test_a_run_that_cannot_start_leaves_no_folder(compose, outputs):
    config = compose("scenario.tasks=7")
    with pytest.raises(UserError, match="do not split into 7"):
        harness.execute(config)
    assert not list(outputs.rglob("*"))
    words = [f"outputs={outputs}", f"data.root={config['data']['root']}", "machine=cpu", "log.live=false", "scenario.tasks=7"]
    for more in ([], ["-m", "seed=0,1"]):
        done = subprocess.run([sys.executable, harness.ROOT / "run.py", *more, *words], capture_output=True, text=True)
        assert done.returncode == 2 and "do not split into 7" in done.stderr
        assert not list(outputs.rglob("seed*")), "Hydra makes the folder before the run begins"
    kept = compose("method=class_mean", "scenario.tasks=2")
    run = harness.execute(kept)
    (run.path / "DONE").unlink()
    with pytest.raises(UserError):
        harness.front_door.execute(kept | {"scenario": kept["scenario"] | {"tasks": 7}}, run)
    assert run.newest is not None, "what was there before stays"


def test_killed_at_twenty_random_moments_it_ends_with_the_same_bits(compose, straight):
    reference, seconds = straight
    config, chance, kills = compose(*WORDS), random.Random(0), 0
    while kills < 20:
        child = in_child(config)
        time.sleep(chance.uniform(0.02, 0.3) * seconds)
        os.kill(child, signal.SIGKILL)
        if wait(child) == 0:  # it finished first: begin another run
            harness.assert_same_bits(reference, harness.run_of(config))
            for file in harness.run_of(config).path.glob("*.*"):
                file.unlink() if file.is_file() else None
            (harness.run_of(config).path / "DONE").unlink()
        else:
            kills += 1
    assert wait(in_child(config)) == 0
    harness.assert_same_bits(reference, harness.run_of(config))
    assert not list(harness.run_of(config).path.glob(".*.partial"))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT"])
def test_a_polite_signal_writes_a_checkpoint_and_says_so_by_its_exit_code(compose, straight, name):
    reference, _ = straight
    config = compose(*WORDS, "machine.checkpoint_seconds=1000")
    child, events = in_child(config), harness.run_of(config).events
    while not (events.exists() and events.stat().st_size):  # the first of ten epochs is over
        time.sleep(0.001)
    os.kill(child, signal.Signals[name])
    assert wait(child) == EXIT_CODE
    assert harness.run_of(config).newest is not None and not harness.run_of(config).is_done
    assert wait(in_child(config)) == 0
    harness.assert_same_bits(reference, harness.run_of(config))


def test_the_second_process_on_an_address_refuses_and_says_who_has_it(compose):
    config = compose(*WORDS)
    with harness.run_of(config).open(config), pytest.raises(UserError, match=r"is being run by process \d+ on .*; wait for it"):
        harness.run_of(config).open(config)


def test_a_closed_pipe_stops_a_run_in_one_line(tmp_path, data_root):
    """As in `python run.py … | head -1`: exit code of a closed pipe, no list of settings, and a run that can go on."""
    words = [f"outputs={tmp_path}", f"data.root={data_root}", *harness.SMALL, "method=class_mean"]
    run = subprocess.Popen([sys.executable, harness.ROOT / "run.py", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.readline()
    run.stdout.close()
    told = run.stderr.read().decode()
    assert run.wait() == 128 + signal.SIGPIPE
    assert told == "stopped, since nothing reads the output any more; the same command resumes\n"
    assert "ACC" in shell(*words)


def shell(*words: str, code: int = 0) -> str:
    ended = subprocess.run([sys.executable, harness.ROOT / "run.py", *words], capture_output=True, text=True, timeout=120)
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout + ended.stderr


def test_a_sweep_runs_once_and_is_skipped_when_repeated(data_root, outputs):
    methods = ("finetune", "class_mean", "joint")
    words = ["-m", f"method={','.join(methods)}", "backbone=resnet_tiny", "seed=0,1", "train.epochs=1"]
    words += ["scenario.tasks=2", "dataset.train_per_class=9", "dataset.test_per_class=3"]
    words += [f"outputs={outputs}", f"data.root={data_root}"]
    first = shell(*words)
    assert len(list(outputs.glob("glyphs_10tasks/*/*/seed*/DONE"))) == 6
    assert "done already" not in first and "6 runs: 6 finished" in first and "percent correct on" not in first
    lines = re.findall(r"^(\w+) seed=(\d) +[\d.]+ +[\d.–]+ +\d+  (\w{10})$", first, re.M)
    assert [line[:2] for line in lines] == [(method, str(seed)) for method in methods for seed in (0, 1)]
    assert all(list(outputs.glob(f"*/{method}/{folder}/seed{seed}/DONE")) for method, seed, folder in lines)
    assert len(re.findall("^method  ", first, re.M)) == 1, "one table"
    summary = RunDir(next(outputs.glob("*/joint/*/seed1"))).summary()
    assert {"method=joint", "seed=1"} <= {*summary["command"].split()} and "-m" not in summary["command"].split(), (
        "its own, not the sweep's"
    )
    stamps = {file: file.stat().st_mtime_ns for file in outputs.rglob("*.*") if file.name != "multirun.yaml" and file.is_file()}
    second = shell(*words[1:], "-m")
    assert "6 runs: 6 done already" in second and len(re.findall(r" done  \w{10}$", second, re.M)) == 6
    assert stamps == {file: file.stat().st_mtime_ns for file in stamps}


def test_a_run_folder_holds_what_the_map_says(straight):
    run, _ = straight
    have = {file.name for file in run.path.iterdir()}
    assert {"config.yaml", "run.log", "events.jsonl", "accuracy.csv", "summary.json", "pictures", "DONE", "task_04.pt"} <= have
    assert {file.name for file in (run.path / "pictures").iterdir()} == {"accuracy.png", "matrix.png"}
    summary = run.summary()
    identity = summary["identity"]
    for key in ("weights_sha256", "data_digest", "split_digest", "order_digest", "train_transform", "precision", "packages",
                "git_commit", "device"):  # fmt: skip
        assert identity[key], key
    for key in ("config", "digest", "seed", "definitions", "seconds", "peak_memory_mib", "image_encodes", "command"):
        assert summary[key] is not None, key
    train, test = 900, 300
    assert summary["image_encodes"] == 2 * train + test * (1 + 2 + 3 + 4 + 5) // 5


def test_help_and_config_errors_do_not_wait_for_torch():
    code = "import sys; import run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=harness.ROOT).returncode == 0
