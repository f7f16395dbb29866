"""Benchmark harness: times relative to a bare forward pass of the same backbone, and counts that do not depend on the machine.

A row of results is a dictionary of plain values. Times are measured in turn with the reference, in one process; ratios are
medians over rounds. Counts are floating-point operations, kernels (operator calls that are not views) and images encoded.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from cil.common.signals import StopRequest
from cil.data.image_store import Pixels
from cil.engine.build import experiment
from cil.engine.evaluation import Evaluation
from cil.engine.recipe import Step
from cil.engine.trainer import Trainer
from cil.method import FrozenResults, LabelledImages, Phase, Task
from cil.runs.run_folder import RunDir

NO_KERNEL = ("_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh",
             "_record_function_enter_new", "_record_function_exit")  # fmt: skip


# --- counts -----------------------------------------------------------------------------------------------------------


class Kernels(TorchDispatchMode):
    """Counts operator calls that compute something, that is, all but views and allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # composite operators are not split up there
            with self:
                result = operator.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        self.count += not operator.is_view and operator.overloadpacket.__name__ not in NO_KERNEL
        return operator(*args, **kwargs)


@dataclass(frozen=True)
class Cost:
    """Machine-independent cost of one call."""

    flops: int
    kernels: int
    encodes: int  # images passed through the backbone


def fused_attention(query: tuple, key: tuple, value: tuple, width: int, *rest: object, **named: object) -> int:
    """FLOPs of the fused self-attention of torch's MultiheadAttention, which torch's counter does not count."""
    batch, length, _ = query
    return 2 * batch * length * width * (4 * width + 2 * length)  # four projections; scores and weighted values


def cost(call: Callable[[], object], backbone: nn.Module) -> Cost:
    """Run `call` once and count its operations and the images that pass through `backbone`."""
    encodes = 0

    def count(module: nn.Module, arguments: tuple) -> None:
        nonlocal encodes
        encodes += len(arguments[0])

    hook = backbone.register_forward_pre_hook(count)
    try:
        more = {torch.ops.aten._native_multi_head_attention: fused_attention}
        with FlopCounterMode(display=False, custom_mapping=more) as flops, Kernels() as kernels:
            call()
    finally:
        hook.remove()
    return Cost(flops.get_total_flops(), kernels.count, encodes)


# --- clocks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Times:
    """Medians over rounds."""

    seconds: float  # wall time of the call
    ratio_cpu: float  # its CPU time divided by the reference's in the same round
    ratio_wall: float


def interleaved(call: Callable, reference: Callable, rounds: int, device: torch.device) -> Times:
    """Time call, reference, call, reference, … for some rounds, after one untimed call of each."""
    clock(call, device), clock(reference, device)
    pairs = [(clock(call, device), clock(reference, device)) for _ in range(rounds)]
    cpu, wall = (statistics.median(one[k] / other[k] for one, other in pairs) for k in (0, 1))
    return Times(statistics.median(one[1] for one, _ in pairs), cpu, wall)


def clock(call: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """CPU and wall-clock seconds of one call; neither is zero."""
    synchronise(device)
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    synchronise(device)
    return max(time.process_time() - cpu, 1e-9), max(time.perf_counter() - wall, 1e-9)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def opened(config: dict, folder: Path, device: torch.device) -> Iterator[Trainer]:
    """Yields the trainer of a configuration, with its own run folder and without console output."""
    with redirect_stdout(StringIO()), RunDir(folder).open(config) as run:
        trainer = experiment(config, run, device, StopRequest())
        try:
            yield trainer
        finally:
            trainer.log.close()


# --- one trainer, cut down to one batch -------------------------------------------------------------------------------


class Bench:
    """A trainer at its first task, cut down to one batch of training images and one of test images."""

    def __init__(self, trainer: Trainer, *, batch: int, rounds: int) -> None:
        self.trainer, self.rounds, self.device = trainer, rounds, trainer.machine.device
        self.method, self.backbone = trainer.method, trainer.method.backbone
        self.task = cut(next(iter(trainer.scenario)), batch)
        self.images = self.task.train_plain.batch(torch.arange(len(self.task.train_plain)), self.device).images
        for modifier in trainer.modifiers:
            modifier.attach(self.method)
        trainer.begin(self.task)
        for moment in ("begin", "end", "begin"):  # as at a second task, so that modifiers have a first task to remember
            trainer._modify(moment, self.task)

    def forward(self) -> Tensor:
        """Reference for all ratios: a forward pass of the frozen bare backbone."""
        with evaluating(self.backbone), torch.no_grad(), self.trainer.precision():
            return self.backbone.bare(self.images)

    def forward_backward(self) -> None:
        parameters = list(self.backbone.image_parameters())
        before = [parameter.requires_grad for parameter in parameters]
        for parameter in parameters:
            parameter.requires_grad_(True)
        with self.trainer.precision():
            features = self.backbone.bare(self.images)
        features.sum().backward()
        for parameter, was in zip(parameters, before, strict=True):
            parameter.grad = None
            parameter.requires_grad_(was)

    def floor(self) -> Iterator[dict]:
        """Times the reference against itself, which shows how noisy the machine is, and a forward and backward pass."""
        yield self.row("floor", "forward", self.forward, self.forward)
        yield self.row("floor", "forward and backward to all weights", self.forward_backward, self.forward_backward)

    def step(self) -> Iterator[dict]:
        """Times a training step as the trainer does it, from uint8 images to the optimizer's update."""
        phases = list(self.method.phases(self.task))
        if not phases:
            yield {"row": "step", "method": name(self.method), "trains": False}
            return
        call, model, images = self.step_of(phases[0])
        rows, random = torch.arange(images), torch.Generator()
        made = interleaved(lambda: phases[0].data.batch(rows, self.device, random), call, self.rounds, self.device)
        more = {"trains": True, "share_of_the_batch": figures(made.ratio_cpu)}
        yield self.row("step", f"training step, phase {phases[0].name}", call, model, images, **more)

    def step_of(self, phase: Phase) -> tuple[Callable[[], object], Callable[[], object], int]:
        """A function for a whole training step, one for the part after the batch is made, and the number of images."""
        optimizer, rows = self.trainer._prepare(phase, None), torch.arange(min(len(phase.data), len(self.images)))
        count = iter(range(10**9))
        rate = self.trainer.recipe.schedule(0, phase.epochs or self.trainer.recipe.epochs, optimizer.param_groups[0]["lr"])
        made = phase.data.batch(rows, self.device, torch.Generator())

        def step() -> Step:
            return Step(phase, rows, optimizer, rate, (0, 0, 0, next(count)))

        model = lambda: self.trainer.learn_from(step(), made)  # noqa: E731
        model()  # the optimizer allocates its state here, untimed
        return lambda: self.trainer.learn(step()), model, len(rows)

    def eval(self) -> Iterator[dict]:
        """Times a test batch; if the method has a frozen stage, also with its outputs cached (warm)."""
        self.method.eval()
        with self.trainer.precision():
            self.method.end_task(self.task)
        kept = self.evaluation()
        self.evaluate(kept)
        state, images = "cold" if kept.frozen else "every time", len(self.task.test)
        shown = self.task.test.batch(torch.arange(images), self.device).images
        known = self.answer(lambda: self.method.frozen_stage(shown)) if kept.frozen else None
        first = lambda: self.answer(lambda: self.method.predict(shown))  # noqa: E731
        yield self.row("eval", f"test batch, {state}", lambda: self.evaluate(self.evaluation()), first, images)
        if kept.frozen:
            again = lambda: self.answer(lambda: self.method.predict_from(known, lambda: shown))  # noqa: E731
            yield self.row("eval", "test batch, warm", lambda: self.evaluate(kept), again, images)

    def answer(self, call: Callable[[], Tensor]) -> Tensor:
        with torch.inference_mode(), self.trainer.precision():
            return call()

    def evaluation(self) -> Evaluation:
        fresh = self.trainer.frozen and FrozenResults(self.method.frozen_stage, self.device)
        return Evaluation(self.method, self.device, len(self.task.test), fresh)

    def evaluate(self, evaluation: Evaluation) -> None:
        with self.trainer.precision():
            evaluation([self.task])

    def row(
        self, row: str, what: str, call: Callable[[], object], model: Callable[[], object], images: int | None = None,
        **more: object,
    ) -> dict:  # fmt: skip
        """Counts and times of `call`, which processes `images` images, relative to the bare forward pass.

        Kernels are counted for `model`, which gets a finished batch: the number of operations that make a batch depends on
        the processor.
        """
        images = images or len(self.images)
        own, bare = cost(call, self.backbone), cost(self.forward, self.backbone)
        times, share = interleaved(call, self.forward, self.rounds, self.device), len(self.images) / images
        return {
            "row": row, "method": name(self.method), "what": what, **more, "batch": images,
            "against": "time of a bare forward of the same images",
            "ratio_cpu": figures(times.ratio_cpu * share), "ratio_wall": figures(times.ratio_wall * share),
            "images_per_second": figures(images / times.seconds), "flops": own.flops,
            "flops_ratio": figures(own.flops / max(bare.flops, 1) * share), "kernels": cost(model, self.backbone).kernels,
            "image_encodes": figures(own.encodes / images), "rounds": self.rounds,
        }  # fmt: skip


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode, and restores the mode of each submodule at the end."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def cut(task: Task, batch: int) -> Task:
    """The task with `batch` images per split, spread over its classes; marked as the last, so that upper bounds train too."""
    train, plain = share_rows((task.train, task.train_plain), batch)
    (test,) = share_rows((task.test,), batch)
    return replace(task, train=train, train_plain=plain, test=test, last=True)


def share_rows(views: Sequence[LabelledImages], batch: int) -> list[LabelledImages]:
    """The first `batch` evenly spaced images of each view, copied so that they form a split of their own."""
    pixels, count = views[0].pixels, min(batch, len(views[0]))
    chosen = torch.arange(count) * len(views[0]) // count
    rows = views[0].rows[chosen]
    own = Pixels(pixels.store, pixels.rows[rows]) if isinstance(pixels, Pixels) else pixels[rows]
    return [LabelledImages(own, torch.arange(count), view.labels[chosen], view.view) for view in views]


def name(method: object) -> str:
    return type(method).__module__.rpartition(".")[2]


def figures(number: float) -> float:
    """Round to four significant digits."""
    return float(f"{number:.4g}")
