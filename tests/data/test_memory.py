"""The exemplar memory: the first of each class, as many of each, and what a checkpoint needs."""

import torch

from cil.data.memory import Memory


def test_each_class_seen_keeps_its_first(scenario):
    """Of 10 images: 5 of each of two classes, then 2 of four, then 1 of six."""
    memory = Memory(10)
    for task, each in zip(scenario, (5, 2, 1)):
        kept = memory.after(task)
        memory.keep(kept)
        assert memory.labels.bincount().tolist() == [each] * len(task.seen)
        for label in task.classes:
            first = task.train.rows[task.train.labels == label][:each]
            assert torch.equal(memory.rows[memory.labels == label], first)
    assert len(memory.joined(scenario[2])) == len(scenario[2].train) + 6
    assert len(memory.of(scenario[0])) == 2  # no class that is yet to come for it


def test_what_is_kept_is_loaded_into_an_empty_memory(scenario):
    memory, other = Memory(10), Memory(10)
    memory.keep(memory.after(scenario[0]))
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.rows, memory.rows) and torch.equal(other.labels, memory.labels)


def test_a_memory_of_nothing_keeps_nothing(scenario):
    memory = Memory(0)
    memory.keep(memory.after(scenario[0]))
    assert len(memory) == 0 and len(memory.joined(scenario[0])) == 36
