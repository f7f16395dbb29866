"""Pre-trains the tiny backbones on the base characters in the training fonts, without any of the 100 benchmark classes.

Two losses are used: classification of the base characters, and a contrastive loss between drawings and names. `clip_tiny`
encodes names with its text encoder, `vit_tiny` with a bag of words that is discarded afterwards. Classification alone stayed at
chance for 500 steps, since its 1,534 classes share nothing; the words of the names are shared (as in ImageNet-21k's hierarchy).
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.backbones.clip import CLIP, IDS, ROWS
from cil.data.datasets import glyphs
from cil.data.transforms.views import View
from cil.pretraining.recovery import nearest_class_mean

# Templates of names and their probabilities. The x's move names to later positions, where learned contexts will put them.
TEMPLATES = {"{}": 0.25, "a photo of a {}.": 0.3, "the character {}.": 0.1, "a drawing of the {}.": 0.1,
             "x " * 4 + "{}": 0.1, "x " * 16 + "{}": 0.1, "x " * 40 + "{}": 0.05}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    steps: int
    batch_size: int = 256  # different characters per step
    lr: float = 2e-3  # peak of the one-cycle schedule
    weight_decay: float = 0.05
    seed: int = 0


def all_drawings() -> np.ndarray:
    """All drawings for pre-training, (characters, fonts, canvas, canvas)."""
    return np.stack([[glyphs.draw(point, face) for face in glyphs.TRAIN_FACES] for point in glyphs.code_points("base")])


def drawings(recipe: Recipe) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yields endless batches: indices of base characters (batch,) and a drawing of each (batch, size, 3, size) uint8."""
    masks, random = all_drawings(), np.random.RandomState(recipe.seed)
    while True:
        chosen = random.permutation(len(masks))[: recipe.batch_size]
        faces = random.randint(len(glyphs.TRAIN_FACES), size=len(chosen))
        yield chosen, torch.from_numpy(glyphs.paint(masks[chosen, faces], glyphs.Jitter(), random))


def pretrain(backbone: nn.Module, recipe: Recipe, log: Callable[[str], None]) -> None:
    """Train all weights of `backbone` in place, and pass progress lines to `log`."""
    torch.manual_seed(recipe.seed)
    random = np.random.RandomState(recipe.seed + 1)
    words = word_table()
    heads = nn.ModuleDict({"classes": nn.Linear(backbone.width, len(words))})
    if not isinstance(backbone, CLIP):
        heads["words"] = nn.Linear(words.shape[1], backbone.width)  # a bag of words instead of a text encoder
        logit_scale = torch.tensor(14.3)
    parameters = [p for p in (*backbone.parameters(), *heads.parameters()) if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": [p for p in parameters if p.ndim < 2]}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.steps, pct_start=0.1)
    view, started = View(backbone.image), time.perf_counter()
    backbone.train()
    for step, (chosen, pixels) in zip(range(recipe.steps), drawings(recipe), strict=False):
        features = backbone(view(pixels))
        losses = {"classes": F.cross_entropy(heads["classes"](features), torch.from_numpy(chosen))}
        if "words" in heads:
            losses["words"] = contrast(features, heads["words"](words[chosen]), logit_scale)
        if isinstance(backbone, CLIP):
            template = random.choice(list(TEMPLATES), p=list(TEMPLATES.values()))
            texts = backbone.encode_text([template.format(base_name(place)) for place in chosen])
            losses["names"] = contrast(features, texts, backbone.logit_scale)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == recipe.steps - 1:
            shown = "  ".join(f"{key} {loss.item():.3f}" for key, loss in losses.items())
            log(f"step {step + 1}/{recipe.steps}  {shown}  {time.perf_counter() - started:.0f} s")
    backbone.eval()


def word_table(at_least: int = 3) -> Tensor:
    """Multi-hot table (characters, words) of the words in each character's name; only words in `at_least` names or more."""
    names = [base_name(place).split() for place in range(len(glyphs.code_points("base")))]
    uses = Counter(word for name in names for word in set(name))
    words = sorted(word for word, count in uses.items() if count >= at_least)
    return torch.tensor([[float(word in name) for word in words] for name in names])


def base_name(place: int) -> str:
    return glyphs.name(glyphs.code_points("base")[place])


def contrast(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric contrastive loss between images and texts (batch, width), where text i belongs to image i."""
    logits = scale.clamp(max=100) * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    own = torch.arange(len(logits))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def stored(backbone: nn.Module) -> dict[str, Tensor]:
    """The state dict for the weight file, in half precision, with only those token embeddings that names and templates use."""
    state = {key: value.half() if value.is_floating_point() else value for key, value in backbone.trunk.state_dict().items()}
    if isinstance(backbone, CLIP):
        names = [glyphs.name(point) for point in glyphs.code_points("base")]
        texts = [*names, *(template.format("x") for template in TEMPLATES)]
        ids = backbone.tokenizer(texts).unique()
        state[IDS], state[ROWS] = ids.int(), state.pop("token_embedding.weight")[ids]
    return {key: value.contiguous() for key, value in state.items()}


@torch.no_grad()
def examine(backbone: nn.Module, images) -> dict[str, float]:
    """Accuracy in percent on the 100 classes in the three unseen fonts: nearest class mean and, for CLIP, zero-shot."""
    view = View(backbone.image)
    train, test = (torch.cat([backbone(view(block)) for block in split.split(500)]) for split in (images.train, images.test))
    scores = {"nearest class mean": nearest_class_mean(train, images.train_labels, test, images.test_labels)}
    if isinstance(backbone, CLIP):
        names = backbone.encode_text([f"a photo of a {name}." for name in images.class_names])
        right = (F.normalize(test, dim=1) @ F.normalize(names, dim=1).T).argmax(1) == images.test_labels
        scores["zero-shot by name"] = round(100 * right.float().mean().item(), 2)
    return scores
