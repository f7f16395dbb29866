"""A SLURM of its own for a test: one node, this machine, in one folder and on the loopback address; no systemd, no database."""

import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
SETTINGS = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=200000
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=high Nodes={host} Default=NO MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""  # cred_expire: a job that was queued again waits for 7 seconds instead of 121


def until(what: Callable[[], object], seconds: float, told: str) -> object:
    """What `what` answers once it is true."""
    end = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < end, f"after {seconds:.0f} s still not {told}"
        time.sleep(0.1)
    return answer


class Cluster:
    """Two partitions over one node: a job of `high` sends one of `low` back into the queue."""

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        self.folder, self.daemons = folder, []
        for name in ("state", "spool", "log"):
            (folder / name).mkdir()
        (folder / "munge").mkdir(mode=0o711)
        key = folder / "munge" / "key"
        key.touch(mode=0o400)
        key.write_bytes(secrets.token_bytes(1024))
        host, ports = socket.gethostname().split(".")[0], free_ports()
        (folder / "slurm.conf").write_text(SETTINGS.format(host=host, folder=folder, ports=ports, cpus=cpus))
        path = os.pathsep.join([str(HERE / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": path, "OMP_NUM_THREADS": "1"}

    def __enter__(self) -> "Cluster":
        munge = self.folder / "munge"
        files = [f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")]
        try:
            self._start("munged", "--foreground", "--force", f"--socket={munge / 'socket'}", *files)
            until((munge / "socket").exists, 10, "a socket of munged")
            self._start("slurmctld", "-D", "-c")
            self._start("slurmd", "-D")
            until(lambda: {*self.asked("sinfo", "-h", "-o", "%T", check=False).split()} == {"idle"}, 20, "an idle node")
        except BaseException:
            for log in sorted((self.folder / "log").iterdir()):
                print(f"--- {log.name}\n{log.read_text()[-2000:]}", file=sys.stderr)
            self.__exit__()
            raise
        return self

    def _start(self, *words: str) -> None:
        with (self.folder / "log" / words[0]).open("w") as log:
            self.daemons.append(subprocess.Popen(words, env=self.environment, stdout=log, stderr=log, start_new_session=True))

    def __exit__(self, *error: object) -> None:
        if len(self.daemons) == 3:
            self.asked("scancel", "--user=root", check=False)
            end = time.monotonic() + 15
            while self.queue() and time.monotonic() < end:
                time.sleep(0.2)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def asked(self, *words: str, check: bool = True, **how: object) -> str:
        """What one of SLURM's commands prints."""
        ended = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60, **how)
        assert not check or ended.returncode == 0, f"{' '.join(words)}: {ended.stderr}"
        return ended.stdout.strip()

    def queue(self) -> dict[str, str]:
        """The state of every job that is not over."""
        lines = self.asked("squeue", "-h", "-r", "-o", "%i %T", check=False).splitlines()
        return dict(line.split() for line in lines)

    def queued_again(self) -> list[str]:
        """The jobs that went back into the queue, one after another, each as often as it did."""
        return re.findall(r"Requeuing JobId=(\w+)\(", (self.folder / "log" / "slurmctld").read_text())


def free_ports(count: int = 2) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
