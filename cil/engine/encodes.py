"""How many images a run puts through its backbone: the same number whether the run was killed or not."""

import torch

from cil.data.frozen_features import FrozenResults
from cil.runs.run_folder import RunDir


class Encodes:
    """Passes are counted from checkpoint to checkpoint. Blocks of frozen results, which a resumed run may read from the disk or
    encode once more, are noted in the run folder when they are first encoded, and count once."""

    def __init__(self, backbone: torch.nn.Module, frozen: FrozenResults | None, run: RunDir) -> None:
        self._frozen, self._run, self._noted = frozen, run, run.encoded() if run.writes else {}
        self.before = self.since = 0  # passes up to the last checkpoint, and since then
        if frozen:
            frozen.notes.append(self._note)
        # a hook, not a method of its own: a copy of the backbone would copy the trainer
        self.hook = backbone.register_forward_pre_hook(lambda _, given: self._pass(given[0]))

    @property
    def total(self) -> int:
        return self.before + self.since + sum(self._noted.values())

    def _note(self, name: str, number: int, images: int) -> None:
        if not self._run.writes:  # of several processes, the first one has the folder; the others' blocks count as passes
            self.since += images
        elif (block := f"{name} {number}") not in self._noted:
            self._noted[block] = images
            self._run.note_encoded(block, images)

    def _pass(self, images: torch.Tensor) -> None:
        count = torch.func.debug_unwrap(images).numel() // images.shape[1:].numel()  # all that a vmap looks at
        if self._frozen and self._frozen.encoding:
            self._frozen.passes += count
        else:
            self.since += count
