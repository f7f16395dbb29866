"""A run of two tasks on the pretended GPU, and what its steps and tests move and wait for."""

import dataclasses
from collections import Counter
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cil.bench.harness import NO_KERNEL
from cil.common.signals import Stopped, StopRequest
from cil.engine.build import experiment
from cil.engine.trainer import Trainer
from cil.runs.run_folder import RunDir
from tests.gpu.pretend_cuda import CUDA, OnGPU, PretendCuda, on_device


@dataclasses.dataclass
class Traffic:
    """The most that one step or one batch needed, once a phase's first step is over, and what the evaluation needed."""

    batch: Counter
    step: Counter
    evaluation: Counter
    kernels: int = 0  # of a step

    def total(self, of: str, kind: str) -> int:
        return sum(count for event, count in getattr(self, of).items() if event.kind == kind)


class Launches(TorchDispatchMode):
    """Counts operators that compute something on the device."""

    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        here = any(issubclass(kind, OnGPU) for kind in types) or on_device((kwargs or {}).get("device"))
        self.count += here and not operator.is_view and operator.overloadpacket.__name__ not in NO_KERNEL
        return operator(*args, **(kwargs or {}))


def run_of(config: dict, folder: Path, stop: StopRequest | None = None) -> tuple[Trainer, Traffic]:
    """Goes on from what lies in `folder`; ends early where `stop` says so."""
    seen = Traffic(Counter(), Counter(), Counter())
    with PretendCuda() as gpu:
        trainer = experiment(config, RunDir(folder).open(config), CUDA, StopRequest() if stop is None else stop)

        def counted(of: str, call, *given):
            gpu.traffic.clear()
            answer = call(*given)
            getattr(seen, of).update(gpu.traffic - getattr(seen, of))  # the most of each
            return answer

        with trainer.run:
            try:
                begun = set()
                for step in trainer.steps():
                    phase = step.where[:2]
                    if phase not in begun:
                        begun.add(phase)
                        trainer.learn(step)
                        continue
                    batch, trainer.part = trainer.shared.part(counted("batch", trainer.batch, step))
                    with Launches() as launches:
                        counted("step", trainer.learn_from, step, batch)
                    seen.kernels = max(seen.kernels, launches.count)
                counted("evaluation", trainer.evaluation, trainer.scenario[:2])
            except Stopped:
                pass
    torch.set_grad_enabled(True)
    return trainer, seen
