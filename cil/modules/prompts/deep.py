"""Prompts in the attention of each block (deep visual prompt tuning: Jia et al., ECCV 2022)."""

from torch import Tensor, nn

from cil.capabilities import ProjectionSite, TakesDeepPrompts, require
from cil.modules.prompts.pool import uniform


class DeepPrompts(nn.Module):
    """Prompts of the first blocks, one set for all images. The tokens of a block attend to them; none is passed on."""

    def __init__(self, backbone: nn.Module, blocks: int, length: int) -> None:
        super().__init__()
        require(backbone, TakesDeepPrompts, "pet")
        self.prompts = uniform(blocks, length, backbone.width)

    def given(self, backbone: nn.Module) -> dict:
        """Return the arguments of the backbone's forward pass."""
        return {"prefixes": backbone.deep(self.prompts)}

    def sites(self) -> list[ProjectionSite]:
        """Rows are multiplied with queries. Columns, the values of one entry over all prompts, with attention weights."""
        blocks = range(len(self.prompts))
        rows = [ProjectionSite(f"prompt.{block}", "token", self.prompts, (block,)) for block in blocks]
        return rows + [ProjectionSite(f"weight.{block}", "weight", self.prompts, (block,), columns=True) for block in blocks]

    def inputs(self, backbone: nn.Module, tokens: Tensor, released: bool) -> dict[str, Tensor]:
        """NSP² leaves out the factors of the norm between prompts and attention."""
        found: dict[str, Tensor] = {}
        for block, met in enumerate(backbone.meetings(tokens, self.prompts, scaled=not released)):
            found |= {f"{name}.{block}": own[:, :, None] for name, own in zip(("prompt", "weight"), met)}
        return found
