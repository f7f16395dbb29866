"""Times training steps and test batches on randomly initialized ViT-B/16 and CLIP B/16, relative to a bare forward pass."""

import contextlib
import io
import statistics
from collections.abc import Callable, Iterator

import torch
from torch.profiler import ProfilerActivity, profile, supported_activities

from cil.bench.harness import Bench, cost, figures, interleaved, opened, synchronise
from cil.gpu_check.part import Part, Row, attempted, judged

METHODS = ("dualprompt", "l2p", "dualprompt+pgp", "l2p+pgp", "finetune", "attriclip", "rapf")
FAMILY = {"attriclip": "clip_vit_b16", "rapf": "clip_vit_b16"}
RECIPES = ("dualprompt", "attriclip", "rapf")  # methods with a recipe for CIFAR100
FORMS = {
    "tf32": ("machine.precision=fp32", "machine.tf32=auto"),
    "bf16": ("machine.precision=bf16",),
    "bf16 comp": ("machine.precision=bf16", "machine.compile=on"),
}
PASSES = ("dualprompt", "l2p")  # methods that use compiled passes; compiling takes minutes
BATCHES = {False: (128, 16), True: (8, 4)}
ROUNDS = {False: 7, True: 1}
PROFILED = 3  # profiled calls, whose median is reported


def cells(small: bool) -> list[tuple[str, int, str]]:
    """Combinations of method, batch size and form; the most important come first, since time may run out."""
    large, few = BATCHES[small]
    plain = ("tf32", "bf16")
    first = [("dualprompt", large, form) for form in FORMS]
    rest = [(method, batch, form) for batch in (large, few) for method in METHODS for form in plain]
    compiled = [(method, batch, "bf16 comp") for batch in (large, few) for method in PASSES]
    half = len(rest) // 2
    return list(dict.fromkeys([*first, *rest[:half], *compiled[:2], *rest[half:], *compiled[2:]]))


def speed(part: Part, forms: tuple[str, ...]) -> Iterator[Row]:
    for method, batch, form in cells(part.small):
        if form not in forms:
            continue
        cell: Row = {"part": "speed", "method": method, "batch": batch, "form": form}
        yield attempted(part, cell, measured, part, method, batch, form)
        if part.device.type == "cuda":
            torch.cuda.empty_cache()


def words_of(method: str, batch: int, form: str, small: bool) -> tuple[str, ...]:
    name, _, modifier = method.partition("+")
    images = max(2, -(-batch // 10))  # per class; the first of ten tasks has ten classes
    return (
        f"method={name}", f"modifier={modifier or 'none'}", "scenario=cifar100_10tasks", "scenario.order=natural",
        "dataset=noise", f"dataset.train_per_class={images}", f"dataset.test_per_class={images}",
        *([f"family={FAMILY[name]}"] if name in FAMILY else []), *(["size=tiny"] if small else []),
        *([f"recipe={name}/cifar100"] if name in RECIPES else []), "backbone.weights=null", "backbone.sha256=null",
        f"train.batch_size={batch}", f"machine.eval_batch_size={batch}", "machine=cuda", *FORMS[form],
    )  # fmt: skip


def measured(part: Part, method: str, batch: int, form: str) -> Row:
    device, rounds = part.device, ROUNDS[part.small]
    config = part.configured(*words_of(method, batch, form, part.small))
    with opened(config, part.folder / "speed" / f"{method}-{batch}-{form.replace(' ', '-')}", device) as trainer:
        bench = Bench(trainer, batch=batch, rounds=rounds)
        torch.cuda.reset_peak_memory_stats(device)
        step, model, images = bench.step_of(next(iter(bench.method.phases(bench.task))))
        step()  # compile before the clock starts
        times = interleaved(step, bench.forward, rounds, device)
        memory = torch.cuda.max_memory_allocated(device)
        launches, idle = profiled(step, device) or (cost(model, bench.backbone).kernels, None)
        flops = cost(step, bench.backbone).flops / max(cost(bench.forward, bench.backbone).flops, 1) if form == "tf32" else None
        tests = tested(bench, rounds, device)
        found = judged(trainer)
    return found | {
        "images": images, "images a second": figures(images / times.seconds), "step ms": figures(1000 * times.seconds),
        "step": figures(times.ratio_wall * len(bench.images) / images), "flops": flops and figures(flops), "test": tests,
        "MiB": memory // 2**20, "kernels": launches, "idle": idle,
    }  # fmt: skip


def tested(bench: Bench, rounds: int, device: torch.device) -> float:
    """Time of a test batch without cached features, divided by the time of a bare forward pass of it."""
    bench.method.eval()
    with contextlib.redirect_stdout(io.StringIO()), bench.trainer.precision():
        bench.method.end_task(bench.task)
    shown = bench.task.test.batch(torch.arange(len(bench.task.test)), device).images
    answer = lambda: bench.answer(lambda: bench.method.predict(shown))  # noqa: E731
    answer()
    times = interleaved(answer, bench.forward, rounds, device)
    return figures(times.ratio_wall * len(bench.images) / len(shown))


def profiled(call: Callable[[], object], device: torch.device) -> tuple[int, float] | None:
    """Number of kernels and copies in a call, and the share of time from first to last in which the GPU is idle.

    None if torch cannot profile the GPU.
    """
    if ProfilerActivity.CUDA not in supported_activities():
        return None
    found = []
    for _ in range(PROFILED):
        synchronise(device)
        with profile(activities=[ProfilerActivity.CUDA]) as taken:
            call()
            synchronise(device)
        found.append(busy([
            (event.time_range.start, event.time_range.end)
            for event in taken.events() if event.device_type == torch.autograd.DeviceType.CUDA
        ]))  # fmt: skip
    return int(statistics.median(n for n, _ in found)), figures(statistics.median(idle for _, idle in found))


def busy(spans: list[tuple[float, float]]) -> tuple[int, float]:
    """The number of spans (start, end), and the share of the time from first start to last end that no span covers."""
    if not spans:
        return 0, 1.0
    spans = sorted(spans)
    covered, reached = 0.0, spans[0][0]
    for start, end in spans:
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return len(spans), 1 - covered / max(reached - spans[0][0], 1e-9)
