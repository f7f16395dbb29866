"""Counts the images that a run passes through its backbone. Killing and resuming the run does not change the count."""

import torch

from cil.data.frozen_features import FrozenResults
from cil.runs.run_folder import RunDir


class Encodes:
    """Counts images encoded by the backbone.

    Ordinary passes are counted up to each checkpoint. Blocks of frozen features are recorded in the run folder when they are
    first encoded and count once, since a resumed run may read them from disk or encode them again.
    """

    def __init__(self, backbone: torch.nn.Module, frozen: FrozenResults | None, run: RunDir) -> None:
        self._frozen, self._run, self._noted = frozen, run, run.encoded() if run.writes else {}
        self.before, self.since = 0, 0.0  # images up to the last checkpoint, and since then
        self.share = 1.0  # of the images passed now, if other runs are trained together with this one
        if frozen:
            frozen.notes.append(self._note)
        # a lambda, not a bound method: a deep copy of the backbone would copy the object of a bound method too
        self.hook = backbone.register_forward_pre_hook(lambda _, given: self._pass(given[0]))

    @property
    def total(self) -> int:
        return self.before + round(self.since) + sum(self._noted.values())

    def _note(self, name: str, number: int, images: int) -> None:
        if not self._run.writes:  # only rank 0 writes the folder; on other ranks a block counts as passes
            self.since += images
        elif (block := f"{name} {number}") not in self._noted:
            self._noted[block] = images
            self._run.note_encoded(block, images)

    def _pass(self, images: torch.Tensor) -> None:
        count = torch.func.debug_unwrap(images).numel() // images.shape[1:].numel()  # includes the batch dimensions of vmap
        count = self.share * count
        if self._frozen and self._frozen.encoding:
            self._frozen.passes += round(count)
        else:
            self.since += count
