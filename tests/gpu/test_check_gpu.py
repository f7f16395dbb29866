"""The check of a GPU on a pretended one: its parts, its page, and that it notices what is wrong."""

import json
import time
from types import SimpleNamespace

import pytest
import torch

from cil.backbones.compiled import Passes
from cil.commands import check_gpu
from cil.data.datasets.noise import noise
from cil.gpu_check import page, runs, whole
from cil.gpu_check.part import judged
from cil.gpu_check.runs import Outcome, Runs, compared, resume
from cil.gpu_check.speed import FORMS, METHODS, busy, cells
from cil.launch.compose import options
from tests.gpu.pretend_cuda import PretendCuda
from tests.harness import ROOT

FEW = "class_mean,l2p,finetune,rapf"


@pytest.fixture(autouse=True)
def switches():
    """TF32 is a switch of the whole process."""
    both = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in both]
    yield
    for switch, was in zip(both, before):
        switch.allow_tf32 = was


@pytest.fixture
def checked(tmp_path, capsys):
    """Words → exit code, what stands on the screen, what was written."""

    def call(*words: str, pretend: bool = True) -> tuple[int, str, dict, str]:
        places = ("--json", str(tmp_path / "found.json"), "--page", str(tmp_path / "page.md"))
        if pretend:
            with PretendCuda():
                code = check_gpu.main(["--small", *places, *words])
        else:
            code = check_gpu.main(["--small", *places, *words])
        files = [tmp_path / name for name in ("found.json", "page.md")]
        found, text = (file.read_text() if file.exists() else "" for file in files)
        return code, capsys.readouterr(), json.loads(found or "{}"), text

    return call


def test_a_machine_without_a_gpu_is_told_in_one_line(checked):
    code, shown, found, text = checked(pretend=False)
    assert code == 2 and not found and not text and not shown.out
    assert shown.err.startswith("error: torch sees no GPU here") and shown.err.count("\n") == 1


def test_results_and_restarts_are_checked(checked):
    code, shown, found, text = checked("--only", "accuracy,resume", "--methods", FEW)
    rows = {(row["part"], row["method"]): row for row in found["rows"]}
    methods = [*FEW.split(","), "l2p+pgp"]
    assert set(rows) == {(part, method) for part in ("accuracy", "resume") for method in methods}
    assert code == 0, shown.out
    for method in methods:
        seen = rows["accuracy", method]
        assert (seen["verdict"], seen["twice"], seen["cpu"]) == ("ok", "equal", seen["gpu"])  # the same processor adds
        assert rows["resume", method]["verdict"] == ("no steps" if method == "class_mean" else "ok")
        assert method in shown.out and f"| {method} " in text
    assert found["device"] == "pretended GPU" and "pretended GPU" in text and "<!-- gpu -->" in text
    assert max(map(len, shown.out.splitlines())) <= 80


def test_speed_and_a_whole_task_are_measured(checked):
    code, shown, found, text = checked("--only", "speed,run")
    assert code == 0, shown.out
    speed, run = ([row for row in found["rows"] if row["part"] == part] for part in ("speed", "run"))
    assert {(row["method"], row["batch"]) for row in speed} == {(method, batch) for method in METHODS for batch in (8, 4)}
    for row in speed:
        assert row["images a second"] > 0 and row["step"] > 0 and row["test"] > 0 and row["kernels"] > 0
    prompts = next(row for row in speed if (row["method"], row["batch"]) == ("dualprompt", 8))
    assert 2 < prompts["flops"] < 4
    (whole_run,) = run
    assert whole_run["images"] == 40 * whole.EPOCHS
    assert 0 < whole_run["minutes, 5 epochs"] < whole_run["minutes, 20 epochs"]
    assert max(map(len, shown.out.splitlines())) <= 80 and "| dualprompt " in text


def test_a_speed_without_the_compiler_is_marked(monkeypatch):
    monkeypatch.setattr(
        torch, "compile", lambda walk, **given: lambda *args, **more: (_ for _ in ()).throw(OSError("no compiler"))
    )
    passes = Passes([2], torch.device("cpu"), print)
    trainer = SimpleNamespace(method=SimpleNamespace(backbone=SimpleNamespace(passes=passes)))
    assert judged(trainer) == {"verdict": "ok"}
    passes(lambda backbone, x: x, torch.nn.Identity(), torch.ones(2))
    assert judged(trainer) == {"verdict": "not compiled", "why": "no compiler"}


def test_parts_are_bounded_in_time(checked):
    began = time.perf_counter()
    code, shown, found, _ = checked("--minutes", "0.0001")
    assert time.perf_counter() - began < 60 and code == 0
    missed = [row for row in found["rows"] if row["verdict"] == "not reached"]
    assert len(missed) >= len(found["rows"]) - 1 and {row["part"] for row in missed} >= {"resume", "speed", "run"}
    assert "not reached in the time; type --only speed" in shown.out


def outcome(right: int, loss: float = 1.0, steps: int = 4) -> Outcome:
    return Outcome([[right / 2], [right / 2, right / 2]], [{"ce": loss}], {"weight": torch.tensor([loss])}, steps, 120)


def pretended(**outcomes: Outcome) -> SimpleNamespace:
    """Runs that ended like this."""
    answers = {name.replace("_", " "): found for name, found in outcomes.items()}
    return SimpleNamespace(outcome=lambda name, where: answers[where], run=lambda name, where, kill: answers.get(where),
                           part=SimpleNamespace(over=False))  # fmt: skip


@pytest.mark.parametrize(
    ("gpu", "other", "verdict"), [(97, 100, "ok"), (96, 100, "apart"), (94, 102, "ok"), (93, 102, "apart")]
)
def test_how_far_a_gpu_may_be_from_the_cpu(gpu, other, verdict):
    given = pretended(cpu=outcome(100), cpu_with_one_thread=outcome(other), gpu=outcome(gpu), gpu_again=outcome(gpu))
    assert compared(given, "any")["verdict"] == verdict


def test_a_difference_between_two_runs_is_named(monkeypatch):
    given = pretended(cpu=outcome(100), cpu_with_one_thread=outcome(100), gpu=outcome(100), gpu_again=outcome(100, 1.5))

    def run(name, where, kill):
        import warnings

        warnings.warn("index_add_cuda_ does not have a deterministic implementation, but you set …", stacklevel=1)
        warnings.warn("Memory Efficient attention defaults to a non-deterministic algorithm. To …", stacklevel=1)

    given.run = run
    row = {"part": "accuracy", "method": "any", **compared(given, "any")}
    assert row["twice"] == "not equal" and row["operators"] == ["Memory Efficient attention", "index_add_cuda_"]
    assert not torch.are_deterministic_algorithms_enabled()
    assert "two runs differ; Memory Efficient attention, index_add_cuda_" in page.tables([row], markdown=False)


def test_a_restart_that_ends_elsewhere_is_noticed():
    same, other = outcome(100), outcome(100, 1.5)
    for resumed, again, verdict in ((same, same, "ok"), (other, same, "not equal"), (other, other, "not repeatable")):
        (row,) = resume(pretended(gpu=same, gpu_again=again, gpu_killed=resumed), ["any"])
        assert row["verdict"] == verdict
    good, line = page.judgement([{"part": "resume", "method": "any", "verdict": "not equal"}])
    assert not good and "resume any not equal" in line


def test_a_cpu_tensor_in_a_step_fails_the_check(checked, monkeypatch):
    from cil.methods.l2p import L2P

    step = L2P.training_step

    def mixed(self, batch, phase):
        return {name: loss + 0 * (torch.arange(3) * loss).sum() for name, loss in step(self, batch, phase).items()}

    monkeypatch.setattr(L2P, "training_step", mixed)
    code, shown, found, _ = checked("--only", "accuracy", "--methods", "l2p")
    assert code == 1 and found["rows"][0]["verdict"] == "failed" and "same device" in found["rows"][0]["why"]
    assert "accuracy l2p: RuntimeError" in shown.out


def test_every_method_and_host_is_asked_for():
    assert runs.names(options("method"))[: len(options("method"))] == options("method")
    assert {"l2p+pgp", "dualprompt+pgp", "clip_prompt+pgp"} <= set(runs.names(options("method")))
    large = [cell for cell in cells(small=False) if cell[0] == "dualprompt"]
    assert large[:3] == [("dualprompt", 128, form) for form in FORMS] and len(set(cells(small=False))) == len(
        cells(small=False)
    )


def test_idle_time_is_what_no_kernel_covers():
    assert busy([(0, 1), (3, 4), (0.5, 2)]) == (3, pytest.approx(0.25))
    assert busy([]) == (0, 1.0)


def test_the_page_keeps_what_stands_around_its_results(tmp_path):
    target = tmp_path / "gpu.md"
    target.write_text((ROOT / "docs" / "results" / "gpu.md").read_text())
    before = target.read_text().partition("<!-- gpu -->")[0]
    page.write(target, {"device": "a GPU", "torch": "2", "commit": "c", "minutes": 1.0, "judgement": "well", "rows": []})
    assert target.read_text().startswith(before) and "No GPU has been available" not in target.read_text()


@pytest.mark.parametrize("words", [("--only", "acuracy"), ("--methods", "l3p"), ("--minutes", "0")])
def test_a_slip_is_told_in_one_line(checked, words):
    code, shown, *_ = checked(*words)
    assert code == 2 and shown.err.startswith("error: ") and shown.err.count("\n") == 1


def test_noise():
    one, two = (noise("nowhere", classes=3, train_per_class=4, test_per_class=2, size=8, seed=seed) for seed in (0, 1))
    assert one.train.shape == (12, 8, 3, 8) and one.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert one.digest != two.digest


def test_runs_are_made_once(monkeypatch):
    made = []
    monkeypatch.setattr(Runs, "run", lambda self, name, where, kill: made.append((name, where)) or outcome(1))
    given = Runs(SimpleNamespace(over=False))
    assert given.outcome("l2p", "gpu") is given.outcome("l2p", "gpu") and made == [("l2p", "gpu")]
