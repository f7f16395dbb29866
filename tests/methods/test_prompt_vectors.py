"""L2P and DualPrompt against the values that the released code gives on a filled transformer (specification, section 15)."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cil.common.switches import grouped
from cil.data.images import Batch
from cil.methods.dualprompt import DualPrompt
from cil.methods.l2p import L2P
from cil.modules.prompt_pool import Choice, match, pull, similarity
from tests.reference import WIDTH, close, fill, head, images, transformer

DUAL = dict(general_blocks=[0, 1], general_length=2, expert_blocks=[2, 3, 4], expert_length=3, pool=4, pull=1.0,
            copy_last=True, vote_train=True, vote_test=True, future_experts=True, future_classes=True,
            test_batch=4)  # fmt: skip


@pytest.fixture(scope="module")
def backbone():
    return transformer()


def with_head(method):
    method.head.weight, method.head.bias = (nn.Parameter(values) for values in head())
    return method.double()


def l2p(backbone, read="prompts") -> L2P:
    choice = Choice(vote_train=True, vote_test=True, future_classes=True, test_batch=4)
    made = with_head(L2P(backbone, pool=4, length=2, top_k=2, pull=0.1, read=read, choice=choice))
    made.prompts.data, made.keys.data = fill(101, 4, 2, WIDTH), fill(102, 4, WIDTH)
    return made


def dualprompt(backbone, **switches) -> DualPrompt:
    made = with_head(DualPrompt(backbone, **grouped(DualPrompt, DUAL | dict(scrambled=True) | switches)))
    made.keys.data = fill(102, 4, WIDTH)
    made.general.data, made.expert.data = fill(103, 2, 2, 2, 3, 8), fill(104, 3, 2, 4, 3, 3, 8)
    made.tasks = 2
    return made


def step(method, labels, classes, index) -> dict[str, torch.Tensor]:
    batch = Batch(images(len(labels)), torch.tensor(labels), torch.arange(len(labels)))
    task = SimpleNamespace(index=index, classes=classes)
    losses = method.training_step(batch, SimpleNamespace(task=task))
    sum(losses.values()).backward()
    return losses


def norms(*parameters) -> torch.Tensor:
    return torch.stack([parameter.grad.norm() for parameter in parameters])


def test_queries_and_similarity(backbone):
    queries = backbone(images())
    close(queries.norm(), 9.833988248262786)
    close(queries[0, :4], [0.8728277450, 0.4853266488, 1.4956343812, -0.4685231108])
    wanted = """0.4151215809 0.1463459787 0.0686088921 0.2476333781 0.4512750721 0.1192757939 0.0547416235 0.2270233684
        0.4045145712 0.1381975587 -0.0847658891 0.2192206991 0.4387177294 0.0063382586 -0.1146119866 0.0652559775"""
    close(similarity(queries, fill(102, 4, WIDTH)), [float(word) for word in wanted.split()])


def test_vote():
    d, b, m = torch.arange(8.0).double(), torch.arange(5.0).double()[:, None], torch.arange(6.0).double()[:, None]
    keys, queries = torch.sin(1.3 * m**2 + 0.9 * d * (m + 1)), torch.cos(1.7 * (b + 1) + 0.7 * d * (b + 2))
    likeness = similarity(queries, keys)
    close(likeness[0], [0.14629935, 0.55884711, -0.24564367, -0.17690606, 0.51189295, -0.4638979], 1e-8)
    apart, voted = (match(likeness, 2, vote=vote) for vote in (False, True))
    assert [set(row) for row in apart.tolist()] == [{1, 4}, {0, 4}, {4, 1}, {4, 1}, {4, 1}]
    assert voted.tolist() == [[4, 1]]
    close(pull(likeness, apart), 0.6374145951, 1e-9)
    close(pull(likeness, voted), 0.6073064933, 1e-9)


def test_the_lowest_number_wins_a_tied_vote():
    assert match(torch.eye(4)[[3, 1, 2, 1, 3]], 1, vote=True).tolist() == [[1]]


def test_l2p(backbone):
    method = l2p(backbone)
    losses = step(method, [0, 1, 2, 0], range(3), 0)
    close(losses["ce"], 1.0383102522056529)
    close(losses["pull"], -0.1 * 0.6171905941906086)
    close(losses["ce"] + losses["pull"], 0.976591192786592)
    assert set(match(similarity(backbone(images()), method.keys), 2, vote=True)[0].tolist()) == {0, 3}
    trained = (method.prompts, method.keys, method.head.weight, method.head.bias)
    close(norms(*trained), [0.0832634918, 0.0428293774, 0.4263089941, 0.1178494525])
    close(norms(*trained).norm(), 0.4521006708)
    wanted = [0.5839945131, 0.0858614665, 0.1567847530, -0.0771836710, 0.2594128406, 0.6121080645]
    close(method.predict(images())[0], wanted)
    wanted = [0.2736634486, 0.6928032229, 0.4034361147, -0.2786691989, 0.2338249758, 0.9738000184]
    close(l2p(backbone, read="class").predict(images())[0], wanted)


def test_the_order_of_the_prompts_does_not_matter(backbone):
    method, tokens = l2p(backbone), backbone.tokens(images())
    close(*(method.under(tokens, torch.tensor([order])) for order in ([0, 3], [3, 0])), 1e-12)


DUAL_VECTORS = {
    4: dict(
        ce=1.2822705353183061, pull=0.10253939749456596, loss=1.1797311378237403, proper=1.3533100384616357,
        norms=[0.0506548691, 0.0701581128, 0.3239418390, 1.7757554713, 0.3780060793], total=1.8462455095,
        halves=[0.0222308182, 0.0219471520, 0.0284072819, 0.0199554622, 0.0510479646, 0.0116269171],
        logits=[0.2319658057, 0.6874940469, 0.2177289104, 0.7077184512, -0.1835694258, 0.5534740417, -0.3100307938,
                0.7544012861],
    ),
    3: dict(
        ce=1.204978155862323, pull=0.13460644378701145, loss=1.0703717120753116, proper=1.2698744818232826,
        norms=[0.0356388823, 0.1075760215, 0.3301156986, 1.2576409104, 0.2232508565], total=1.3241301708,
        halves=[0.0432033894, 0.0308297886, 0.0354322738, 0.0230378045, 0.0785412674, 0.0282961930],
        logits=[0.2319658057, 0.6874940469, -0.0189618033, 0.5789283912, -0.1835694258, 0.5534740417],
    ),
}  # fmt: skip
PROPER = [-0.0110147673, 0.5709574892, -0.0189618033, 0.5789283912, -0.3075546953, 0.5568642476, -0.4117706994, 0.7428420510]


@pytest.mark.parametrize("count", [4, 3])
def test_dualprompt(backbone, count):
    wanted, labels = DUAL_VECTORS[count], [3, 4, 5, 3][:count]
    method = dualprompt(backbone)
    losses = step(method, labels, range(3, 6), 1)
    close(losses["ce"], wanted["ce"])
    close(losses["pull"], -wanted["pull"])
    close(losses["ce"] + losses["pull"], wanted["loss"])
    trained = (method.general, method.expert, method.keys, method.head.weight, method.head.bias)
    close(norms(*trained), wanted["norms"])
    close(norms(*trained).norm(), wanted["total"])
    close(method.expert.grad[:, :, 1].flatten(2).norm(dim=2).flatten(), wanted["halves"])
    assert not method.expert.grad[:, :, [0, 2, 3]].any()
    close(method.predict(images(count))[:, :2].flatten(), wanted["logits"])
    close(step(dualprompt(backbone, scrambled=False), labels, range(3, 6), 1)["ce"], wanted["proper"])
    close(dualprompt(backbone, scrambled=False).predict(images(count))[:, :2].flatten(), PROPER[: 2 * count])


def test_without_a_query_the_largest_value_over_tokens_chooses(backbone):
    likeness = similarity(backbone.tokens(images()).amax(1), dualprompt(backbone).keys)
    assert match(likeness, 1, vote=True).tolist() == [[2]]
    assert match(likeness[:3], 1, vote=True).tolist() == [[2]]


def test_scrambled_prefixes_are_the_slots_of_the_port(backbone):
    """Against the reshape itself: (half, image) read as (image, half)."""
    method, chosen = dualprompt(backbone), torch.tensor([[3], [0], [2]])
    raw = method.expert[:, :, chosen[:, 0]]  # (blocks, 2, 3, length, heads, width)
    reshaped = raw.reshape(3, 3, 2, 3, 3, 8)  # (blocks, image, half, …)
    pairs = method.prefixes(chosen, 3, scrambled=True)
    for number, block in enumerate((2, 3, 4)):
        for half in (0, 1):
            assert torch.equal(pairs[block][half], reshaped[number, :, half].transpose(1, 2))
