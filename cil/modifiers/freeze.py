"""Freezes what a method has learned beside its head, so that all later forgetting is the head's."""

import torch
from torch import Tensor, nn

from cil.common.errors import UserError
from cil.common.ranges import Count
from cil.method import Method, Phase, Task
from cil.modifier import Modifier


class Freeze(Modifier):
    """From a later task on, prompts, keys and adapters return to their values after each step; the head goes on learning.

    The forgetting of such a run is a bound for what a better treatment of prompts, such as gradient projection, can prevent.
    """

    remembered = ("kept",)

    def __init__(self, *, after: Count) -> None:
        """`after`: the number of tasks that are trained as usual."""
        self.after = after
        self.kept: dict[str, Tensor] = {}

    def attach(self, method: Method) -> None:
        if not parts(method) or not any(name.startswith("head") for name, _ in method.named_parameters()):
            raise UserError("freeze needs a method that learns a head and prompts, keys or adapters (method=l2p, dualprompt "
                            f"or coda_prompt); {type(method).__name__} does not")  # fmt: skip

    def begin_task(self, method: Method, task: Task) -> None:
        if task.index >= self.after:
            self.kept = {name: part.detach().clone() for name, part in parts(method).items()}

    @torch.no_grad()
    def after_step(self, method: Method, phase: Phase) -> None:
        learned = parts(method)
        for name, value in self.kept.items():
            learned[name].copy_(value)


def parts(method: Method) -> dict[str, nn.Parameter]:
    """The parameters that belong neither to the backbone nor to a head."""
    return {name: one for name, one in method.named_parameters() if not name.startswith(("backbone.", "head"))}
