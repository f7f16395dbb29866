"""Short runs of every method on Split-Glyphs: on the CPU, twice on the GPU, and once killed and resumed on the GPU."""

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from cil.bench.harness import opened
from cil.gpu_check.part import Part, Row, attempted

RUN = ("dataset._target_=cil.data.datasets.glyphs.alphabet", "+dataset.script=latin", "scenario.tasks=2", "train.epochs=2",
       "train.batch_size=16", "machine.checkpoint_seconds=0")  # fmt: skip
SIZES = {False: ("+dataset.classes=10", "dataset.train_per_class=18", "dataset.test_per_class=12"),
         True: ("+dataset.classes=4", "dataset.train_per_class=9", "dataset.test_per_class=3")}  # fmt: skip
FEWER = ("method.memory=12", "method.later_epochs=1", "method.tune_epochs=1")
SHORT = {  # further settings that shorten a method's recipe
    "ari": ("method.memory=12", "train.first=null"),
    "dytox": FEWER,
    "raw": FEWER,
    "der_mcg": ("method.memory=12", "method.gate_width=8", "method.centroids=3", "train.first=null"),
}
MODIFIED = (("l2p", "pgp"), ("dualprompt", "pgp"), ("clip_prompt", "pgp"))
APART = 3  # images by which GPU and CPU may always differ, and the factor on the difference between CPU thread counts
NONDETERMINISTIC = (
    re.compile(r"^(\S+) does not have a deterministic implementation"),
    re.compile(r"^(Memory Efficient attention|Flash Attention) defaults to a non-deterministic algorithm"),
)


@dataclass
class Outcome:
    """The results of a run that are compared with another run."""

    correct: list[list[float]]  # correct answers on each task (column) after each task (row)
    losses: list[dict]
    state: dict
    steps: int
    tests: int

    def equals(self, other: "Outcome") -> bool:
        """Whether both runs gave bit-identical results."""
        if (self.correct, self.losses, self.state.keys()) != (other.correct, other.losses, other.state.keys()):
            return False
        pairs = ((value, other.state[key]) for key, value in self.state.items())
        return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)

    @property
    def right(self) -> int:
        """Correct answers after the last task."""
        return int(sum(self.correct[-1]))

    @property
    def percent(self) -> float:
        return 100 * self.right / self.tests


@dataclass
class Runs:
    """Cache of runs: each run is made once, when it is first needed."""

    part: Part
    made: dict[tuple, Outcome] = field(default_factory=dict)

    def outcome(self, name: str, where: str) -> Outcome:
        """`where`: "cpu", "cpu with one thread", "gpu" or "gpu again"."""
        if (name, where) not in self.made:
            threads = torch.get_num_threads()
            if where == "cpu with one thread":
                torch.set_num_threads(1)
            try:
                outcome = self.run(name, where, None)
                assert outcome is not None  # only a killed run has none
                self.made[name, where] = outcome
            finally:
                torch.set_num_threads(threads)
        return self.made[name, where]

    def run(self, name: str, where: str, kill_after: int | None) -> Outcome | None:
        """Run to the end; or drop the run after `kill_after` steps and return None. The next call with its name resumes it."""
        on_cpu = where.startswith("cpu")
        device = torch.device("cpu") if on_cpu else self.part.device
        words = ("machine=cpu",) if on_cpu else ("machine=cuda", "machine.tf32=off")
        config = self.part.configured(*words_of(name), *RUN, *SIZES[self.part.small], *words)
        with opened(config, self.part.folder / name / where.replace(" ", "_"), device) as trainer:
            steps = 0
            for step in trainer.steps():
                trainer.learn(step)
                steps += 1
                if steps == kill_after:
                    return None  # as `kill -9`: what no checkpoint holds is lost
            rows = enumerate(trainer.matrix.correct)
            correct = [row[: after + 1].tolist() for after, row in rows if row[0] == row[0]]  # NaN: not evaluated after it
            events = map(json.loads, trainer.run.events.read_text().splitlines())
            losses = [event["losses"] for event in events if "losses" in event]
            newest = trainer.run.newest
            assert newest is not None  # a finished run keeps its last checkpoint
            state = trainer.run.load(newest)["method"]
            tests = sum(len(task.test) for task in trainer.scenario)
            return Outcome(correct, losses, state, steps, tests)


def words_of(name: str) -> tuple[str, ...]:
    """The command-line settings of `method` or `method+modifier`."""
    method, _, modifier = name.partition("+")
    return (f"method={method}", *SHORT.get(method, ()), *([f"modifier={modifier}"] if modifier else []))


def names(methods: Sequence[str]) -> list[str]:
    return [*methods, *(f"{host}+{modifier}" for host, modifier in MODIFIED if host in methods)]


def accuracy(runs: Runs, methods: Sequence[str]) -> Iterator[Row]:
    """Compare each method on the GPU with the CPU, and with a second run on the GPU."""
    for name in names(methods):
        yield attempted(runs.part, {"part": "accuracy", "method": name}, compared, runs, name)


def compared(runs: Runs, name: str) -> Row:
    cpu, threads, gpu, again = (runs.outcome(name, w) for w in ("cpu", "cpu with one thread", "gpu", "gpu again"))
    apart, allowed = abs(gpu.right - cpu.right), max(APART, APART * abs(cpu.right - threads.right))
    same = gpu.equals(again)
    return {
        "cpu": round(cpu.percent, 1), "gpu": round(gpu.percent, 1), "images": cpu.tests, "apart": apart, "allowed": allowed,
        "threads apart": abs(cpu.right - threads.right), "loss apart": loss_apart(cpu, gpu),
        "twice": "equal" if same else "not equal", "operators": [] if same else operators(runs, name),
        "verdict": "ok" if apart <= allowed else "apart",
    }  # fmt: skip


def loss_apart(one: Outcome, two: Outcome) -> float | None:
    """Relative difference of the first epoch's losses, before rounding errors can grow."""
    if not one.losses or not two.losses:
        return None
    sums = [sum(run.losses[0].values()) for run in (one, two)]
    return float(f"{abs(sums[1] - sums[0]) / max(abs(sums[0]), 1e-12):.2g}")


def operators(runs: Runs, name: str) -> list[str]:
    """Names of the torch operators in a run that warn that they are nondeterministic."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            runs.run(name, "gpu asked for determinism", None)
    finally:
        torch.use_deterministic_algorithms(False)
    found = (pattern.search(str(warning.message)) for warning in caught for pattern in NONDETERMINISTIC)
    return sorted({match[1] for match in found if match})


def resume(runs: Runs, methods: Sequence[str]) -> Iterator[Row]:
    """Stop each method in the middle of its run, as `kill -9` does, and resume it from its newest checkpoint."""
    for name in names(methods):
        yield attempted(runs.part, {"part": "resume", "method": name}, resumed, runs, name)


def resumed(runs: Runs, name: str) -> Row:
    straight = runs.outcome(name, "gpu")
    if straight.steps < 2:
        return {"verdict": "no steps"}
    runs.run(name, "gpu killed", straight.steps * 2 // 3)
    found = runs.run(name, "gpu killed", None)
    assert found is not None
    same = straight.equals(found)
    if not same and not straight.equals(runs.outcome(name, "gpu again")):
        return {"verdict": "not repeatable", "apart": abs(straight.right - found.right)}
    return {"verdict": "ok" if same else "not equal", "steps repeated": found.steps}
