"""What `auto` becomes on which machine, and that an address says what came out."""

import json
import subprocess
import sys

import pytest
import torch

from cil.common.errors import UserError
from cil.common.signals import StopRequest
from cil.engine.build import device_of, experiment
from cil.report.why import differences
from cil.runs import precision
from cil.runs.precision import settled, use
from cil.runs.run_folder import digest
from cil.runs.settings import checked
from tests import harness
from tests.gpu.pretend_cuda import PretendCuda


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    """A processor with these flags."""

    def has(*flags: str) -> None:
        (tmp_path / "cpuinfo").write_text(f"model name : a processor\nflags : fpu avx2 {' '.join(flags)}\n")
        monkeypatch.setattr(precision, "PROCESSOR", tmp_path / "cpuinfo")

    return has


def machine(*words: str) -> dict:
    return settled(harness.compose("method=finetune", *words))["machine"]


def test_a_cpu_run_is_recorded_as_it_was_before_these_settings_came():
    config = settled(harness.compose("method=finetune", "machine=cpu"))
    assert config["machine"].keys() == {"device", "precision", "eval_batch_size", "checkpoint_seconds", "keep_checkpoints"}
    assert "accumulate" not in config["train"]
    assert settled(config) == config == settled(checked(config))


def test_auto_precision_of_a_cpu_asks_for_its_instructions(cpu):
    plain = harness.compose("method=finetune", "machine=cpu")
    cpu()
    assert machine("machine=cpu", "machine.precision=auto")["precision"] == "fp32"
    assert digest(harness.compose("method=finetune", "machine=cpu", "machine.precision=auto")) == digest(plain)
    cpu("avx512_bf16")
    assert machine("machine=cpu", "machine.precision=auto")["precision"] == "bf16"
    asked, typed = (harness.compose("method=finetune", "machine=cpu", f"machine.precision={p}") for p in ("auto", "bf16"))
    assert digest(asked) == digest(typed) != digest(plain)


def test_a_cpu_without_bf16_is_warned_of(cpu):
    cpu("amx_bf16")
    assert use(torch.device("cpu"), "bf16", tf32=False) == []
    cpu()
    assert use(torch.device("cpu"), "fp32", tf32=False) == []
    (line,) = use(torch.device("cpu"), "bf16", tf32=False)
    assert "no bf16 instructions" in line and "type machine.precision=fp32" in line


def test_the_warning_is_in_the_log_of_the_run(compose, cpu):
    cpu()
    run = harness.execute(compose("method=class_mean", "machine.precision=bf16", "scenario.tasks=2"))
    assert "no bf16 instructions" in (run.path / "run.log").read_text()


@pytest.mark.parametrize(
    ("capability", "words", "expected"),
    [
        ((9, 0), (), ("fp32", "on")),
        ((9, 0), ("machine.precision=auto",), ("bf16", "on")),
        ((7, 0), ("machine.precision=auto",), ("fp32", None)),
        ((8, 6), ("machine.tf32=off",), ("fp32", None)),
        ((7, 0), ("machine=cpu",), ("fp32", None)),
    ],
)
def test_auto_on_a_gpu_asks_for_its_generation(monkeypatch, capability, words, expected):
    with PretendCuda():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        found = machine(*words)
        monkeypatch.undo()
    assert (found["precision"], found.get("tf32")) == expected


def test_tf32_is_part_of_an_address_where_it_is_on():
    on_cpu = harness.compose("method=finetune", "machine=cpu")
    with PretendCuda():
        config = harness.compose("method=finetune")
        here, off, kept = digest(config), digest(harness.compose("method=finetune", "machine.tf32=off")), settled(config)
        assert digest(harness.compose("method=finetune", "machine=cpu")) == digest(on_cpu)
    assert here != off == digest(on_cpu)
    assert digest(kept) == here, "the address of a GPU's run is the same on a machine without a GPU"
    assert digest(harness.compose("method=finetune", "machine=cuda")) == here, "a login node names it too"


@pytest.fixture
def switches():
    """What torch keeps for the whole process, as it was afterwards."""
    both = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in both]
    yield both
    for switch, was in zip(both, before):
        switch.allow_tf32 = was


def test_a_gpu_run_sets_tf32_and_says_so(compose, switches):
    with PretendCuda():
        for word, expected in (("auto", True), ("off", False)):
            config = compose("method=class_mean", "machine=cuda", f"machine.tf32={word}")
            run = harness.run_of(config).open(config)
            trainer = experiment(config, run, device_of("cuda"), StopRequest())
            assert [switch.allow_tf32 for switch in switches] == [expected] * 2
            assert trainer.processes[-1]["tf32"] is expected and trainer.machine.tf32 is expected
            trainer.log.close()
            run.close()


def test_tf32_on_a_cpu_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"machine\.tf32=on, but this run is on the cpu.*type machine\.tf32=auto"):
        use(torch.device("cpu"), "fp32", tf32=True)


def test_summaries_and_their_comparison_name_the_arithmetic(compose):
    run = harness.execute(compose("method=class_mean", "scenario.tasks=2"))
    summary = json.loads((run.path / "summary.json").read_text())
    assert "tf32" not in summary["identity"] and summary["digest"] == run.path.parent.name
    other = {**summary, "identity": {**summary["identity"], "tf32": True}}
    assert [d.what for d in differences(summary, other)] == ["tf32"]


def test_a_torch_that_is_not_there_yet_is_not_loaded_for_a_machine_without_a_gpu():
    ask = "import sys; from cil.runs.precision import capability_of; capability_of('cpu'); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", ask], cwd=harness.ROOT).returncode == 0
