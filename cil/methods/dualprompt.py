"""DualPrompt: prefixes for all tasks in the first blocks, one expert prefix a task in the next (Wang et al., ECCV 2022)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cil.capabilities import ProjectionSite, TakesPrompts, require
from cil.common.errors import UserError
from cil.common.ranges import Count, Weight, Whole
from cil.common.switches import switches
from cil.method import Batch, Losses, Method, Phase, Task
from cil.modules.heads.linear import GrowingLinear
from cil.modules.prompt_pool import Choice, Queried, match, needs_test_batch, pull, similarity, uniform
from cil.modules.together import Together

KEY, VALUE = 0, 1


@switches
class ExpertChoice(Choice):
    """How experts are chosen where the released code differs from the text:

    - `vote_train`, `vote_test`: All images of a batch take the expert that most of them choose.
    - `scrambled`: Keys and values of the images of a batch are mixed up, as in the PyTorch port.
    - `future_experts`, `future_classes`: Experts and classes of later tasks compete in a test.

    With `vote_test` or `scrambled` the answers depend on the test batch, whose size is `test_batch`.
    """

    scrambled: bool
    future_experts: bool


class DualPrompt(Together, Queried, Method):
    """Puts prefixes before the keys and values of attention: general ones in the first blocks, and an expert per task in
    later blocks. Training uses the task's own expert; a test image takes the expert whose key is nearest to its query."""

    may_differ = ("pull",)

    def __init__(
        self, backbone: nn.Module, *, general_blocks: Sequence[Whole], general_length: Count, expert_blocks: Sequence[Whole],
        expert_length: Count, pool: Count, pull: Weight, copy_last: bool, choice: ExpertChoice,
    ) -> None:  # fmt: skip
        """There are `pool` experts. A task beyond them trains the old expert that its images choose. `copy_last`: an expert
        starts as a copy of the one before. `pull` weighs the loss that draws an expert's key to the queries.
        """
        super().__init__()
        require(backbone, TakesPrompts, "dualprompt")
        needs_test_batch(choice.test_batch, vote_test=choice.vote_test, scrambled=choice.scrambled)
        blocks = [*general_blocks, *expert_blocks]
        if len(set(blocks)) < len(blocks) or not set(blocks) <= set(range(backbone.depth)):
            raise UserError(f"method.general_blocks and expert_blocks name {blocks}; name each of 0…{backbone.depth - 1} at "
                            "most once, as in method.general_blocks=[0,1] method.expert_blocks=[2,3,4]")  # fmt: skip
        self.backbone, self.pull, self.copy_last, self.choice = backbone, pull, copy_last, choice
        self.general_blocks, self.expert_blocks = list(general_blocks), list(expert_blocks)
        self.divisible, self.votes = not (choice.scrambled or choice.vote_train), choice.vote_train
        self.test_batch = choice.test_batch
        row = (backbone.heads, backbone.width // backbone.heads)
        self.general = uniform(len(general_blocks), 2, general_length, *row)  # axis 1: key, value
        self.expert = uniform(len(expert_blocks), 2, pool, expert_length, *row)
        self.keys = uniform(pool, backbone.width)  # an expert's key serves all of its blocks
        self.head = GrowingLinear(backbone.width)
        self.tasks = 0

    def begin_task(self, task: Task) -> None:
        self.head.grow(task.total if self.choice.future_classes else len(task.seen))
        self.tasks = task.index + 1
        if self.copy_last and 0 < task.index < len(self.keys):
            self.expert.data[:, :, task.index] = self.expert.data[:, :, task.index - 1]

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("train", task, task.train, [self.general, self.expert, self.keys, *self.head.parameters()])]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        tokens = self.backbone.tokens(batch.images)
        likeness = similarity(self.queries(tokens, batch), self.keys)
        chosen = self.of_task(likeness, phase.task.index)
        features = self.backbone(tokens, prefixes=self.prefixes(chosen, len(tokens), scrambled=self.choice.scrambled))
        loss = self.head.own_loss(features, batch.labels, phase.task.classes)
        return {"ce": loss, "pull": -self.pull * pull(likeness, chosen)}

    def of_task(self, likeness: Tensor, task: int) -> Tensor:
        """Return the (batch or 1, 1) index of the expert that a task trains: its own or, beyond the pool, an old one."""
        if task < len(self.keys):
            return torch.full((1, 1), task, device=likeness.device)
        return match(likeness, 1, vote=self.choice.vote_train)

    def prefixes(self, chosen: Tensor, batch: int, *, scrambled: bool) -> dict[int, tuple[Tensor, Tensor]]:
        """Return keys and values, each (batch or 1, heads, length, width), for every prompted block.

        `chosen` is the (batch or 1, 1) index of the expert.
        """
        chosen = chosen[:, 0]
        if scrambled:
            # The port reshapes (half, image) to (image, half) where it should transpose: image b gets slots 2b and 2b + 1 of
            # the list [key of every image, then value of every image].
            slots = torch.arange(2 * batch, device=chosen.device).view(batch, 2).T
            experts = self.expert[:, slots // batch, chosen.expand(batch)[slots % batch]]
        else:
            experts = self.expert[:, :, chosen]
        experts = experts.transpose(3, 4)  # (blocks, 2, batch or 1, heads, length, width of a head)
        general = self.general.transpose(2, 3)[:, :, None]
        own = zip((*self.general_blocks, *self.expert_blocks), (*general.unbind(0), *experts.unbind(0)), strict=True)
        return {block: (pair[KEY], pair[VALUE]) for block, pair in own}

    def prompted(self, queries: Tensor, images: Tensor) -> Tensor:
        keys = self.keys if self.choice.future_experts else self.keys[: self.tasks]
        chosen = match(similarity(queries, keys), 1, vote=self.choice.vote_test)
        return self.backbone(images, prefixes=self.prefixes(chosen, len(images), scrambled=self.choice.scrambled))

    # --- gradient projection ------------------------------------------------------------------------------------------

    def projection_sites(self) -> list[ProjectionSite]:
        """Only the keys of prefixes are projected: they are multiplied with the queries of attention, head by head."""
        heads = self.backbone.heads
        general = [(f"g_prefix.{block}", self.general, (n, KEY)) for n, block in enumerate(self.general_blocks)]
        expert = [(f"e_prefix.{block}", self.expert, (n, KEY)) for n, block in enumerate(self.expert_blocks)]
        return [ProjectionSite(name, "prefix", p, index, heads=heads) for name, p, index in general + expert]

    def projection_inputs(self, images: Tensor, released: bool) -> dict[str, Tensor]:
        """The queries of attention, under the prefixes that the task was trained with.

        The released code does not know the task here, and takes the maximum over the tokens in place of the query.
        """
        tokens = self.backbone.tokens(images)
        likeness = similarity(tokens.amax(1) if released else self.backbone(tokens), self.keys)
        chosen = match(likeness, 1, vote=False) if released else self.of_task(likeness, self.tasks - 1)
        prefixes = self.prefixes(chosen, len(tokens), scrambled=False)
        asked = self.backbone.attention_queries(tokens, [*self.general_blocks, *self.expert_blocks], prefixes)
        names = {b: f"g_prefix.{b}" for b in self.general_blocks} | {b: f"e_prefix.{b}" for b in self.expert_blocks}
        return {names[block]: queries.transpose(1, 2) for block, queries in asked.items()}
