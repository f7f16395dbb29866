"""A sweep on a real SLURM whose jobs meet a time limit, a preemption and a lost node, against the same sweep in one process."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cil.runs.run_folder import RunDir
from tests import harness
from tests.slurm.cluster import Cluster, until

HERE = shutil.which("slurmctld") and shutil.which("munged") and os.geteuid() == 0
pytestmark = [
    pytest.mark.skipif(os.environ.get("TEST_SLURM") != "1", reason="make test-slurm runs this"),
    pytest.mark.skipif(not HERE, reason="needs root, slurmctld and munged: apt-get install slurm-wlm munge"),
]

RUN = str(harness.ROOT / "run.py")
LONG, LOST, THIRD = 100, 6, 5  # epochs of the run that meets its time limit, of that which loses its node, and of the next
SWEEP = ["method=l2p,class_mean", f"train.epochs={LONG},{LOST},{THIRD},4"]
WORDS = ["scenario.tasks=2", "dataset.train_per_class=4", "dataset.test_per_class=2", "machine=cpu", "log.live=false",
         "data.features=null", "machine.checkpoint_seconds=0"]  # fmt: skip
# SLURM looks at the clock every half minute and warns up to that much early: with ten seconds still after a job listens
OWN = {"partition": "low", "gres": "null", "mem_gb": "null", "cpus_per_task": 1, "timeout_min": 1, "signal_delay_s": 10}
SETTINGS = [f"hydra.launcher.{key}={value}" for key, value in OWN.items()]


@pytest.fixture(scope="module")
def room():
    """Short: the path of a socket may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def cluster(room):
    (room / "cluster").mkdir()
    with Cluster(room / "cluster") as started:
        yield started


@pytest.fixture(scope="module")
def straight(room) -> dict[str, RunDir]:
    """The sweep in one process; by address."""
    words = [RUN, "-m", *SWEEP, *WORDS, *folders(room, "straight")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert subprocess.run([sys.executable, *words], env=environment, capture_output=True).returncode == 0
    runs = runs_below(room / "straight")
    assert len(runs) == 8
    return runs


def folders(room: Path, name: str) -> list[str]:
    return [f"outputs={room / name}", f"data.root={room / 'data'}"]


def runs_below(outputs: Path) -> dict[str, RunDir]:
    return {str(file.parent.relative_to(outputs)): RunDir(file.parent) for file in outputs.glob("*/*/*/seed*/DONE")}


def of_epochs(runs: dict[str, RunDir], epochs: int) -> str:
    """The address of one run that learns."""
    (found,) = (a for a, run in runs.items() if "/l2p/" in a and run.summary()["config"]["train"]["epochs"] == epochs)
    return found


def assert_same(one: RunDir, two: RunDir) -> None:
    assert (one.path / "accuracy.csv").read_bytes() == (two.path / "accuracy.csv").read_bytes()
    harness.assert_same_bits(one, two)


def table(outputs: Path) -> list[list[str]]:
    """What scripts/tables.py prints, without the seconds."""
    script = harness.ROOT / "scripts" / "tables.py"
    words = [sys.executable, script, "--markdown", "--outputs", outputs]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    cells = [line.split("|") for line in lines if line.startswith("|")]
    left_out = [cell.strip() for cell in cells[0]].index("seconds")
    return [row[:left_out] + row[left_out + 1 :] for row in cells]


def learning(run: Path) -> bool:
    """It has a checkpoint of an epoch, and more to do."""
    return (run / "inside.pt").exists() and not (run / "DONE").exists()


def process_of(run: Path) -> int:
    return int(re.match(r"process (\d+) ", (run / "lock").read_text())[1])


def test_an_array_of_the_launcher_ends_in_the_numbers_of_one_process(cluster, room, straight):
    outputs = room / "outputs"
    words = ["-m", "hydra/launcher=submitit_slurm", *SWEEP, *WORDS, *SETTINGS, *folders(room, "outputs")]
    with (room / "launcher.log").open("w+") as log:
        launcher = subprocess.Popen([sys.executable, RUN, *words], cwd=room, env=cluster.environment, stdout=log, stderr=log)
        try:
            lose_the_node_of(cluster, outputs / of_epochs(straight, LOST), task=1)
            preempted = preempt(cluster, outputs / of_epochs(straight, THIRD))
            assert launcher.wait(400) == 0, (room / "launcher.log").read_text()
        finally:
            launcher.kill()
            cluster.asked("scancel", "--user=root")

    said = (room / "launcher.log").read_text()
    assert f"job 1_0: method=l2p train.epochs={LONG}\n" in said and f"\nlogs: {outputs}/.submitit/JOB/\n" in said
    assert "\n8 runs: 8 finished\n" in said
    runs = runs_below(outputs)
    assert runs.keys() == straight.keys()
    for address, run in runs.items():
        assert_same(run, straight[address])
    assert table(outputs) == table(room / "straight")

    lives = {int(f.parent.name.split("_")[1]): f.read_text() for f in outputs.glob(".submitit/*_*/*.err")}
    assert len(lives) == 8  # one array
    assert cluster.queued_again().count("1_0") > (preempted == "1_0"), "the long run did not meet its time limit"
    assert "timed-out" in lives[0] and "1_1" in cluster.queued_again()
    for epochs in (LONG, LOST):
        assert "resuming from inside.pt" in (runs[of_epochs(straight, epochs)].path / "run.log").read_text()
    words = runs[of_epochs(straight, LONG)].summary()["command"]
    assert words.startswith("cil ") and f"train.epochs={LONG}" in words


def lose_the_node_of(cluster: Cluster, run: Path, task: int) -> None:
    """SLURM takes the job away and queues it again; its process is gone before it can write anything."""
    until(lambda: learning(run), 60, "learning")
    (job,) = (job for job in cluster.queue() if job.endswith(f"_{task}"))
    while not taken(cluster, job):  # its own warning came early, and it has queued itself again
        until(lambda: cluster.queue().get(job) == "RUNNING" and learning(run), 90, "learning again")
    os.kill(process_of(run), signal.SIGKILL)


def taken(cluster: Cluster, job: str) -> bool:
    answer = cluster.asked("bash", "-c", f"scontrol requeue {job} 2>&1 || echo refused", check=False)
    assert "refused" not in answer or "pending" in answer, answer
    return "refused" not in answer


def preempt(cluster: Cluster, run: Path) -> str:
    """A job of a higher partition needs a processor while two runs have one each; the one that gives way."""
    until(lambda: learning(run), 60, "learning")
    assert [*cluster.queue().values()].count("RUNNING") == 2
    before = len(cluster.queued_again())
    cluster.asked("sbatch", "--wait", "-p", "high", "-o", "/dev/null", "--wrap", "true")
    assert len(cluster.queued_again()) > before
    return cluster.queued_again()[before]


def test_a_plain_array_goes_on_after_a_signal(cluster, room, straight):
    """Lines of scripts/expand.py by scripts/array.sbatch; one of two is stopped and queues itself again."""
    (room / "run.py").symlink_to(RUN)
    script, expand = (str(harness.ROOT / "scripts" / name) for name in ("array.sbatch", "expand.py"))
    words = [*WORDS, *folders(room, "plain"), "method=l2p", f"train.epochs={LOST},{THIRD}"]
    (room / "sweep.txt").write_text(cluster.asked(sys.executable, expand, *words) + "\n")
    options = cluster.asked(sys.executable, expand, "--options", str(room / "sweep.txt"), *SETTINGS).split()
    answer = cluster.asked("sbatch", *options, script, "sweep.txt", cwd=room)
    job = answer.split()[-1]

    stopped, other = (of_epochs(straight, epochs) for epochs in (LOST, THIRD))
    until(lambda: learning(room / "plain" / stopped), 60, "learning")
    cluster.asked("scancel", "--batch", "--signal=USR1", f"{job}_1")
    until(lambda: not cluster.queue(), 120, "through the queue")
    runs, logs = runs_below(room / "plain"), room / "outputs" / "slurm"
    said = [(logs / f"{job}_{number}.out").read_text() for number in (1, 2)]
    for address in (stopped, other):
        assert address in runs, said
        assert_same(runs[address], straight[address])
    assert "stopped by SIGUSR1" in said[0] and "resuming from inside.pt" in said[0]


def test_a_cancelled_job_of_a_plain_array_stays_cancelled(cluster, room):
    words = [*WORDS, *folders(room, "cancelled"), "method=l2p", "train.epochs=1000"]
    expand = str(harness.ROOT / "scripts" / "expand.py")
    (room / "one.txt").write_text(cluster.asked(sys.executable, expand, *words) + "\n")
    script = str(harness.ROOT / "scripts" / "array.sbatch")
    job = cluster.asked("sbatch", "--array=1", script, "one.txt", cwd=room).split()[-1]
    until(lambda: [*(room / "cancelled").glob("*/*/*/seed0/inside.pt")], 60, "learning")
    cluster.asked("scancel", job)
    until(lambda: not cluster.queue(), 30, "gone")
    shown = cluster.asked("scontrol", "-o", "show", "job", f"{job}_1")
    assert "JobState=CANCELLED" in shown and "Restarts=0" in shown
