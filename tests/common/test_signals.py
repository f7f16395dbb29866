"""Who is told of a signal, and when: the run first; then, with its checkpoint written, a launcher that queues the job again."""

import signal
from subprocess import CalledProcessError

import pytest

from cil.common.signals import EXIT_CODE, POLITE, Stopped, stop_request
from tests import harness

WORDS = ("method=finetune", "backbone=resnet_tiny", "scenario.tasks=2", "train.epochs=2", "machine.checkpoint_seconds=1000")


@pytest.fixture(autouse=True)
def as_before():
    before = {number: signal.getsignal(number) for number in POLITE}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Launcher:
    """What submitit's handler does: notes, and ends the process."""

    def __init__(self, number: int) -> None:
        self.called = []
        signal.signal(number, self)

    def __call__(self, number: int, frame: object) -> None:
        self.called.append(number)
        raise SystemExit(-1)


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2"])
def test_a_launcher_is_called_after_the_checkpoint_and_not_before(compose, monkeypatch, name):
    number, config = signal.Signals[name], compose(*WORDS)
    launcher, save, event, run = Launcher(number), harness.RunDir.save, harness.RunDir.event, harness.run_of(config)

    def saves(folder, *of, **how):
        assert not launcher.called
        save(folder, *of, **how)

    def asks(folder, **record):  # in the middle of the first task
        signal.raise_signal(number)
        assert not launcher.called
        event(folder, **record)

    monkeypatch.setattr(harness.RunDir, "save", saves)
    monkeypatch.setattr(harness.RunDir, "event", asks)
    with pytest.raises(SystemExit) as ended:
        harness.execute(config)
    assert ended.value.code == -1 and launcher.called == [number]
    assert run.newest.name == "inside.pt" and not run.is_done
    assert signal.getsignal(number) is launcher  # for what the process does next
    with run.open(config):
        """The folder is free."""

    monkeypatch.undo()
    harness.execute(config)
    straight = {**config, "outputs": config["outputs"] + "_straight"}
    harness.assert_same_bits(run, harness.execute(straight))


def test_a_launcher_that_will_not_queue_again_says_so_instead(compose):
    def refuses(number, frame):
        raise RuntimeError("timed-out too many times")

    signal.signal(signal.SIGUSR2, refuses)
    with pytest.raises(RuntimeError, match="too many times"), stop_request() as stop:
        signal.raise_signal(signal.SIGUSR2)
        assert stop.name == "SIGUSR2"
        raise Stopped(stop.name)


@pytest.mark.parametrize(("code", "ends"), [(-signal.SIGTERM, SystemExit), (1, CalledProcessError)])
def test_a_job_that_ends_while_it_is_queued_again_has_not_failed(code, ends):
    """SLURM ends all processes of the job, so that the command that queues it again may not return."""

    def asks(number, frame):
        raise CalledProcessError(code, ["scontrol", "requeue", "1_0"])

    signal.signal(signal.SIGUSR2, asks)
    with pytest.raises(ends) as ended, stop_request() as stop:
        signal.raise_signal(signal.SIGUSR2)
        raise Stopped(stop.name)
    assert ends is CalledProcessError or ended.value.code == EXIT_CODE


def test_a_launcher_is_not_called_for_another_signal_or_another_end():
    launcher = Launcher(signal.SIGUSR2)
    with pytest.raises(Stopped), stop_request() as stop:
        signal.raise_signal(signal.SIGTERM)
        raise Stopped(stop.name)
    with pytest.raises(ValueError), stop_request():
        signal.raise_signal(signal.SIGUSR2)
        raise ValueError
    assert not launcher.called


def test_other_handlers_of_somebody_else_are_left_in_place():
    """submitit waits through SIGTERM."""
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with stop_request() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert heard and not stop
