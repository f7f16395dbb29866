"""L2P: a pool of prompts at the input of a frozen transformer, matched to images by keys (Wang et al., CVPR 2022)."""

from typing import Literal

from torch import Tensor, nn

from cil.capabilities import ProjectionSite, TakesPrompts, require
from cil.common.errors import UserError
from cil.common.ranges import Count, Weight
from cil.method import Batch, Losses, Method, Phase, Task
from cil.modules.heads.linear import GrowingLinear
from cil.modules.prompt_pool import Choice, Queried, match, needs_test_batch, pull, similarity, uniform
from cil.modules.together import Together


class L2P(Together, Queried, Method):
    """Puts prompts from a pool before the image tokens. The query of an image is its class token from the backbone without
    prompts; the `top_k` keys nearest to the query choose the prompts."""

    may_differ = ("pull",)

    def __init__(
        self, backbone: nn.Module, *, pool: Count, length: Count, top_k: Count, pull: Weight, read: Literal["prompts", "class"],
        choice: Choice,
    ) -> None:  # fmt: skip
        """The pool holds `pool` prompts of `length` tokens. `pull` weighs the loss that draws the chosen keys to the query.
        `read`: the head sees the mean of the tokens in the `prompts`' places, or the `class` token.
        """
        super().__init__()
        require(backbone, TakesPrompts, "l2p")
        needs_test_batch(choice.test_batch, vote_test=choice.vote_test)
        if top_k > pool:
            raise UserError(f"method.top_k={top_k} prompts of a pool of {pool} cannot be chosen; type method.top_k=1 to {pool}")
        self.backbone, self.top_k, self.pull, self.read = backbone, top_k, pull, read
        self.choice, self.test_batch = choice, choice.test_batch
        self.divisible, self.votes = not choice.vote_train, choice.vote_train
        self.prompts = uniform(pool, length, backbone.width)
        self.keys = uniform(pool, backbone.width)
        self.head = GrowingLinear(backbone.width)

    def begin_task(self, task: Task) -> None:
        self.head.grow(task.total if self.choice.future_classes else len(task.seen))

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("train", task, task.train, [self.prompts, self.keys, *self.head.parameters()])]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        tokens = self.backbone.tokens(batch.images)
        likeness = similarity(self.queries(tokens, batch), self.keys)
        chosen = match(likeness, self.top_k, vote=self.choice.vote_train)
        loss = self.head.own_loss(self.under(tokens, chosen), batch.labels, phase.task.classes)
        return {"ce": loss, "pull": -self.pull * pull(likeness, chosen)}

    def under(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Return (batch, width) features of images or tokens under the (batch or 1, top_k) chosen prompts."""
        return self.backbone(images, prompts=self.prompts[chosen].flatten(1, 2), read=self.read)

    def prompted(self, queries: Tensor, images: Tensor) -> Tensor:
        return self.under(images, match(similarity(queries, self.keys), self.top_k, vote=self.choice.vote_test))

    # --- gradient projection ------------------------------------------------------------------------------------------

    def projection_sites(self) -> list[ProjectionSite]:
        return [
            ProjectionSite("prompts", "token", self.prompts, own=True, own_from=1, sampled="before"),
            ProjectionSite("keys", "key", self.keys, sampled="before"),
        ]

    def projection_inputs(self, images: Tensor, released: bool) -> dict[str, Tensor]:
        """Prompts are combined with the tokens that enter the first block. The released code takes patch embeddings without
        their positions."""
        tokens = self.backbone.tokens(images)
        met = self.backbone.patches(images) if released else tokens
        return {"prompts": met[:, :, None], "keys": self.backbone(tokens)[:, None, None]}
