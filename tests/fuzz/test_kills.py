"""Killed at random moments, a run ends with the bits of one that was left alone."""

import os
import signal
import time
from random import Random

import pytest

from cil.common.signals import EXIT_CODE
from tests import harness
from tests.fuzz.record import TIMES, record
from tests.launch.test_run import in_child, wait
from tests.methods.test_contract import GROWING

KILLS = 60 * TIMES
FEW = ("train.epochs=2", "train.batch_size=8", "machine.checkpoint_seconds=0")
METHODS = {
    "finetune": ("backbone=resnet_tiny",),
    "l2p": ("modifier=pgp",),
    "attriclip": ("method.bank=10",),
    "icarl": ("method.memory=12",),
    "rapf": (),
    "slca": (),
    "ease": (),
    "dytox": ("method.memory=12", "method.later_epochs=1", "method.tune_epochs=1"),
}
SIGNALS = (signal.SIGKILL,) * 6 + (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def same(summary: dict) -> dict:
    """What two records of one configuration agree in: all but the clock, the memory, the folder and the commit of the moment.

    EASE encodes anew, after a kill, what its growing stage had encoded.
    """
    left_out = {"seconds", "peak_memory_mib", "config"} | ({"image_encodes"} if summary["method"] in GROWING else set())
    identity = {key: value for key, value in summary["identity"].items() if key != "git_commit"}
    return {key: value for key, value in summary.items() if key not in left_out} | {
        "identity": identity,
        "earlier_processes": [],
    }


@pytest.mark.parametrize("method", METHODS)
def test_the_same_bits(method, tmp_path, data_root, scenario, monkeypatch):
    monkeypatch.setattr("cil.engine.build.build_scenario", lambda config, backbone, images=None: scenario)  # three tasks
    words = (f"method={method}", *METHODS[method], f"data.root={data_root}", *harness.SMALL, *FEW)
    left_alone, config = (harness.compose(f"outputs={tmp_path / name}", *words) for name in ("alone", "killed"))
    began = time.perf_counter()
    assert wait(in_child(left_alone)) == 0
    seconds, chance, kills = time.perf_counter() - began, Random(method), 0
    while kills < KILLS // len(METHODS):
        child = in_child(config)
        time.sleep(chance.uniform(0.05, 0.7) * seconds)
        if chance.random() < 0.2:
            os.kill(child, signal.SIGSTOP)
            time.sleep(0.02)
            os.kill(child, signal.SIGCONT)
        number = chance.choice(SIGNALS)
        os.kill(child, number)
        interrupted = (2,) if number == signal.SIGINT else ()  # before it listened
        assert wait(child) in (0, -number, EXIT_CODE, *interrupted)
        kills += 1
        if harness.run_of(config).is_done:  # begin another run
            harness.assert_same_bits(harness.run_of(left_alone), harness.run_of(config))
            for file in harness.run_of(config).path.glob("*"):
                file.unlink() if file.is_file() else None
    assert wait(in_child(config)) == 0
    harness.assert_same_bits(harness.run_of(left_alone), harness.run_of(config))
    summaries = [harness.run_of(c).summary() for c in (left_alone, config)]
    assert same(summaries[0]) == same(summaries[1])
    assert not list(harness.run_of(config).path.glob(".*.partial"))
    assert [file.name for file in harness.run_of(config).path.glob("*.pt")] == ["task_02.pt"]
    record(f"kills of {method}", tried=kills)
