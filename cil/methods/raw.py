"""Raw: a transformer with one token for all tasks and a head per task, the baseline of LPA (Zheng et al., ICME 2023)."""

from cil.method import Batch, Losses, Method, Phase
from cil.modules.growing.growing_transformer import GrowingTransformer


class Raw(GrowingTransformer, Method):
    """The released code of LPA (locality-preserved attention) calls this baseline "Raw"."""

    token_a_task = False

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        images, targets = self.mix(batch)
        return self.losses(self.predict(images), targets, images, batch, phase)
