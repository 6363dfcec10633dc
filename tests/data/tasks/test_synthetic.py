import pytest
import torch

from retentive.data.tasks.synthetic import associative_recall, cipher, repeat_copy


def test_copies_are_what_was_said():
    batch = repeat_copy(3, batch_size=16, length=5, num_symbols=4, seed=0)
    assert batch.tokens.shape == (16, 10)
    said = batch.tokens[:, :5]
    assert torch.equal(batch.labels[:, 5:], said)
    assert (batch.labels[:, :5] == -100).all()
    assert (batch.tokens[:, 5] == 4).all()
    assert torch.equal(batch.tokens[:, 6:], said[:, :4])
    assert set(said.flatten().tolist()) == {0, 1, 2, 3}


def test_answers_are_the_values_of_the_keys():
    batch = associative_recall(3, batch_size=64, num_pairs=6, num_keys=8, num_values=5, seed=0)
    assert batch.tokens.shape == (64, 13)
    asked = set()
    for tokens, labels in zip(batch.tokens.tolist(), batch.labels.tolist(), strict=True):
        keys, values = tokens[:-1:2], tokens[1::2]
        assert len(set(keys)) == 6
        assert all(key < 8 <= value < 13 for key, value in zip(keys, values, strict=True))
        assert labels == [-100] * 12 + [dict(zip(keys, values, strict=True))[tokens[-1]]]
        asked.add(keys.index(tokens[-1]))
    assert asked == set(range(6))


@pytest.mark.parametrize(
    "make",
    [
        lambda step, seed: repeat_copy(step, batch_size=4, length=9, num_symbols=9, seed=seed),
        lambda step, seed: associative_recall(step, batch_size=4, num_pairs=5, num_keys=9, num_values=9, seed=seed),
    ],
)
def test_a_batch_depends_on_its_step_and_seed_alone(make):
    assert torch.equal(make(1, 0).tokens, make(1, 0).tokens)
    assert not torch.equal(make(1, 0).tokens, make(2, 0).tokens)
    assert not torch.equal(make(1, 0).tokens, make(1, 1).tokens)
    assert make(1, 0).starts.sum(dim=1).tolist() == [1] * 4
    assert make(1, 0).starts[:, 0].all()


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="length must be at least 1, but is 0"):
        repeat_copy(0, batch_size=1, length=0, num_symbols=2, seed=0)
    with pytest.raises(ValueError, match="num_keys must be at least num_pairs, which is 3, but is 2"):
        associative_recall(0, batch_size=1, num_pairs=3, num_keys=2, num_values=2, seed=0)


def test_ciphers_are_told_by_the_neighbours_alone():
    batch = cipher(3, batch_size=64, num_symbols=6, chunk_size=4, seed=0)
    assert batch.tokens.shape == (64, 4 + 12 - 1)
    assert batch.extra_inputs["neighbours"].shape == (64, 3, 1, 12)
    assert (batch.tokens[:, :4] == 12).all()
    keys = set()
    for tokens, labels, found in zip(batch.tokens, batch.labels, batch.extra_inputs["neighbours"], strict=True):
        key = dict(found[0, 0].view(6, 2).tolist())
        assert set(key) == set(range(6))
        assert all(dict(other[0].view(6, 2).tolist()) == key for other in found)
        assert labels[:4].eq(-100).all()
        assert labels[5::2].eq(-100).all()
        asked = tokens[4::2].tolist()
        assert sorted(asked) == list(range(6))
        assert labels[4::2].tolist() == [key[symbol] for symbol in asked]
        keys.add(tuple(key[symbol] for symbol in range(6)))
    assert len(keys) > 50
    with pytest.raises(ValueError, match=r"num_symbols must be at least chunk_size / 2, .* is 3 for a chunk_size of 8"):
        cipher(0, batch_size=1, num_symbols=3, chunk_size=8, seed=0)
