"""AttriCLIP: a bank of attributes, each a key and a text prompt, chosen by the image (Wang et al., CVPR 2023)."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import HasText, require
from cil.common.errors import UserError
from cil.common.ranges import Count, NonNegative, Weight
from cil.common.switches import switches
from cil.method import Known, Losses, Method, Phase, Scenario, Task
from cil.modules.heads.cosine import scores
from cil.modules.heads.frozen_images import FrozenImages
from cil.modules.text import written
from cil.modules.together import Inputs, Named, Together


@switches
class Deviations:
    """Where the released code differs from the text:

    - `cosine_choice`: Keys are normalised before they are compared with an image.
    - `train_text`: The text encoder is trained too. Each task starts from its pre-trained weights.
    - `pristine_tests`: Test images are scored with the pre-trained weights of the text encoder.
    - `sum_keys`: The key loss is the sum over the chosen keys instead of their mean.
    - `ordered_pairs`: The diversity loss averages over ordered pairs, which gives twice the printed value.
    - `placeholders`: For the diversity loss a prompt is encoded in front of placeholder words instead of alone.
    - `underscores`: Class names contain underscores instead of spaces.
    - `half_bank`: Keys and prompts are float16 numbers, in which small updates round to zero.
    """

    cosine_choice: bool
    train_text: bool
    pristine_tests: bool
    sum_keys: bool
    ordered_pairs: bool
    placeholders: bool
    underscores: bool
    half_bank: bool


class AttriCLIP(Together, FrozenImages, Method):
    """Scores an image with the text "prompt prompt prompt name.", whose prompts belong to the `top_k` keys nearest to its
    feature. The image encoder is frozen; keys and prompts are trained."""

    may_differ = ("key_weight", "diversity_weight", "margin")

    def __init__(
        self, backbone: nn.Module, *, bank: Count, length: Count, phrase: str | None, top_k: Count,
        key_loss: Literal["cosine", "triplet", "mse"], margin: NonNegative, key_weight: Weight, diversity_weight: Weight,
        deviations: Deviations,
    ) -> None:  # fmt: skip
        """The bank holds `bank` prompts of `length` words each. They start at random or, with a `phrase`, near its words.

        `key_loss` pulls the chosen keys towards the image feature: `cosine` distance, `triplet` (with `margin`, against the
        keys that were not chosen) or `mse`. `key_weight` and `diversity_weight` are λ_k and λ_p.
        """
        super().__init__()
        require(backbone, HasText, "attriclip")
        if top_k > bank:
            raise UserError(f"method.top_k={top_k} prompts of a bank of {bank} cannot be chosen; type method.top_k=1 to {bank}")
        if key_loss == "triplet" and top_k == bank:
            raise UserError("method.key_loss=triplet needs keys that are not chosen; type a method.bank above method.top_k")
        self.backbone, self.top_k, self.length, self.key_loss, self.margin = backbone, top_k, length, key_loss, margin
        self.key_weight, self.diversity_weight, self.deviations = key_weight, diversity_weight, deviations
        kind = torch.float16 if deviations.half_bank else torch.float32
        self.keys = nn.Parameter((0.02 * torch.randn(bank, backbone.width)).to(kind))
        self.prompts = nn.Parameter(backbone.context(bank, length, phrase).to(kind))
        self.register_buffer("picks", torch.zeros(bank, dtype=torch.long))  # how often this task's training chose each key
        self.names: list[str] = []
        self._initial = [p.detach().clone() for p in backbone.text_parameters()] if deviations.train_text else []
        self._texts: dict[tuple[int, ...], Tensor] = {}  # cache for tests: encoded names, by the prompts before them

    def suits(self, scenario: Scenario) -> None:
        self.backbone.room_for(written(scenario.class_names, self.deviations.underscores), self.top_k * self.length)

    def begin_task(self, task: Task) -> None:
        self.names += written(task.names, self.deviations.underscores)
        self.picks.zero_()
        self.reset_text()

    def phases(self, task: Task) -> list[Phase]:
        text = self.backbone.text_parameters() if self.deviations.train_text else ()
        return [Phase("train", task, task.train, [self.keys, self.prompts, *text])]

    def end_task(self, task: Task) -> None:
        if self.deviations.pristine_tests:
            self.reset_text()

    def reset_text(self) -> None:
        self._texts.clear()
        for parameter, initial in zip(self.backbone.text_parameters(), self._initial):
            parameter.data.copy_(initial)

    def only_alone(self) -> str | None:
        return "it trains the text encoder" if self.deviations.train_text else None

    @property
    def frozen_part(self) -> nn.Module:
        return self.backbone.image_tower if self.deviations.train_text else self.backbone

    def facts(self) -> dict:
        """The percentage of this task's training images that chose each key, and the mean cosine between the chosen keys.

        They show whether the bank has collapsed to `top_k` keys that every image chooses.
        """
        used = F.normalize(self.keys[self.picks > 0].detach().float(), dim=1)
        cosine = (used @ used.T).triu(1).sum() / max(1, len(used) * (len(used) - 1) / 2)
        percent = 100 * self.picks * self.top_k / self.picks.sum()
        return {"chosen %": percent.round().int().tolist(), "key cosine": round(float(cosine), 4)}

    # --- training -----------------------------------------------------------------------------------------------------

    def losses_from(self, known: Known, phase: Phase) -> Losses:
        features = F.normalize(known.frozen, dim=1)
        chosen = self.choose(features)
        self.note(chosen)
        texts = self.texts_before(self.prompts, chosen, self.own_names(phase))
        return self.losses_given(features, known.labels - phase.task.classes.start, chosen, texts)

    def losses_given(self, features: Tensor, labels: Tensor, chosen: Tensor, texts: Tensor) -> Losses:
        """`texts`: for each image, the (batch, names, width) texts with its `chosen` prompts."""
        return {
            "ce": F.cross_entropy(scores(self.backbone.logit_scale, features, texts), labels),
            "keys": self.key_weight * self.distance(features, chosen),
            "diversity": self.diversity_weight * self.likeness(),
        }

    def losses_of(self, runs: Sequence, learned: Named, settings: Named, inputs: Inputs, phase: Phase) -> Losses:
        """As in Together; the sets of prompts that the images of all runs chose are encoded at once."""
        frozen, classes = inputs
        assert frozen is not None and classes is not None
        features, labels = F.normalize(frozen, dim=2), classes - phase.task.classes.start
        chosen = torch.vmap(lambda learned, *given: self.with_values(learned, {}, self.choose, *given))(learned, features)
        for run, own in zip(runs, chosen):
            run.note(own)
        first = torch.arange(len(runs), device=chosen.device).view(-1, 1, 1) * learned["prompts"].shape[1]
        texts = self.texts_before(learned["prompts"].flatten(0, 1), (first + chosen).flatten(0, 1), self.own_names(phase))
        texts = texts.unflatten(0, chosen.shape[:2])
        each = torch.vmap(lambda learned, settings, *given: self.with_values(learned, settings, self.losses_given, *given))
        return each(learned, settings, features, labels, chosen, texts)

    def note(self, chosen: Tensor) -> None:
        """Count the chosen keys. The texts that are cached for tests are no longer valid after this step."""
        self._texts.clear()
        self.picks.scatter_add_(0, chosen.flatten(), torch.ones_like(chosen).flatten())

    def own_names(self, phase: Phase) -> list[str]:
        classes = phase.task.classes
        return self.names[classes.start : classes.stop]

    def choose(self, features: Tensor) -> Tensor:
        """Return the (batch, top_k) indices of the nearest keys, the nearest first."""
        keys = F.normalize(self.keys.float(), dim=1) if self.deviations.cosine_choice else self.keys.float()
        return scores(keys.new_ones(()), features, keys).detach().topk(self.top_k, 1).indices

    def texts_before(self, prompts: Tensor, chosen: Tensor, names: list[str]) -> Tensor:
        """Encode the chosen prompts of each image in front of each name, each set once: → (batch, names, width), normalised."""
        tuples, which = chosen.unique(dim=0, return_inverse=True)
        return self.texts(prompts, tuples, names)[which]

    def texts(self, prompts: Tensor, tuples: Tensor, names: list[str]) -> Tensor:
        """Encode each set of prompts in front of each name: (sets, top_k) → (sets, names, width), normalised."""
        return F.normalize(self.backbone.encode_contexts(prompts[tuples].flatten(1, 2).float(), names).float(), dim=2)

    def distance(self, features: Tensor, chosen: Tensor) -> Tensor:
        """L_k (Eq. 9): the distance between each image and its keys, averaged over images."""
        keys = self.keys.float()
        near = keys[chosen]  # (batch, top_k, width)
        if self.key_loss == "mse":
            each = (features[:, None] - near).square().mean(2)
        else:
            each = 1 - torch.einsum("bd,bkd->bk", features, F.normalize(near, dim=2))
        if self.key_loss == "triplet":
            far = 1 - features @ F.normalize(keys, dim=1).T  # (batch, bank)
            others = torch.ones_like(far).scatter(1, chosen, 0)
            each = (each - (far * others).sum(1, keepdim=True) / others.sum(1, keepdim=True) + self.margin).clamp_min(0)
        return (each.sum(1) if self.deviations.sum_keys else each.mean(1)).mean()

    def likeness(self) -> Tensor:
        """L_p (Eq. 10): the mean absolute cosine between the prompts, each encoded alone."""
        bank, alone = len(self.prompts), self.alone()
        cosines = scores(alone.new_ones(()), alone, alone)
        pairs = cosines.abs().triu(1).sum() / max(1, bank * (bank - 1))
        return 2 * pairs if self.deviations.ordered_pairs else pairs

    def alone(self) -> Tensor:
        """g(P_i): the (bank, width) normalised encodings of the prompts without a class name."""
        contexts = self.prompts.float()
        if self.deviations.placeholders:
            rest = self.backbone.embed("x")[None].expand(len(contexts), (self.top_k - 1) * contexts.shape[1], -1)
            contexts = torch.cat([contexts, rest], 1)
        return F.normalize(self.backbone.encode_contexts(contexts, [""])[:, 0].float(), dim=1)

    # --- tests --------------------------------------------------------------------------------------------------------

    def predict_from(self, frozen: Tensor, images: Callable[[], Tensor]) -> Tensor:
        features = F.normalize(frozen, dim=1)
        tuples, which = self.choose(features).unique(dim=0, return_inverse=True)
        texts = torch.stack([self.known(tuple(row)) for row in tuples.tolist()])
        return scores(self.backbone.logit_scale, features, texts[which])

    def known(self, chosen: tuple[int, ...]) -> Tensor:
        """Return the (names seen, width) texts of a prompt set. Each is encoded once between two training steps."""
        before = self._texts.get(chosen)
        have = 0 if before is None else len(before)
        if have < len(self.names):
            new = self.texts(self.prompts, torch.tensor([chosen], device=self.keys.device), self.names[have:])[0]
            self._texts[chosen] = new if before is None else torch.cat([before, new])
        return self._texts[chosen]
