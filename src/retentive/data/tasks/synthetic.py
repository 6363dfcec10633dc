"""Small synthetic tasks with known answers: does a model remember at all?

Every batch depends on its step and the arguments alone. Only answers have labels, so the loss of a model that cannot
solve the task is the logarithm of the number of possible answers.
"""

from dataclasses import replace

import numpy as np
import torch

from retentive.data.batch import IGNORED, Batch, check_sizes


def repeat_copy(step: int, *, batch_size: int, length: int, num_symbols: int, seed: int) -> Batch:
    """Copy: random symbols, a delimiter, and the same symbols again, which are the answers.

    Args:
        step: Number of the batch.
        batch_size: Rows.
        length: Symbols to remember; a row has ``2 * length`` tokens.
        num_symbols: Symbols are ids 0 to ``num_symbols - 1``; the delimiter is ``num_symbols``.
        seed: Another seed gives other rows.
    """
    check_sizes(batch_size=batch_size, length=length, num_symbols=num_symbols)
    symbols = np.random.default_rng((seed, step)).integers(num_symbols, size=(batch_size, length))
    delimiter = np.full((batch_size, 1), num_symbols)
    said = np.concatenate([symbols, delimiter, symbols], axis=1)
    labels = said[:, 1:].copy()
    labels[:, :length] = IGNORED
    return _batch(said[:, :-1], labels)


def associative_recall(
    step: int, *, batch_size: int, num_pairs: int, num_keys: int, num_values: int, seed: int
) -> Batch:
    """Associative recall: pairs of key and value, then one of the keys, whose value is the answer.

    Args:
        step: Number of the batch.
        batch_size: Rows.
        num_pairs: Pairs in a row, with different keys; a row has ``2 * num_pairs + 1`` tokens.
        num_keys: Keys are ids 0 to ``num_keys - 1``.
        num_values: Values are the ``num_values`` ids after the keys.
        seed: Another seed gives other rows.

    Raises:
        ValueError: If a size is below 1, or there are fewer keys than pairs.
    """
    check_sizes(batch_size=batch_size, num_pairs=num_pairs, num_keys=num_keys, num_values=num_values)
    if num_keys < num_pairs:
        raise ValueError(f"num_keys must be at least num_pairs, which is {num_pairs}, but is {num_keys}.")
    random = np.random.default_rng((seed, step))
    keys = random.random((batch_size, num_keys)).argsort(axis=1)[:, :num_pairs]
    values = num_keys + random.integers(num_values, size=(batch_size, num_pairs))
    asked = random.integers(num_pairs, size=(batch_size, 1))
    pairs = np.stack([keys, values], axis=2).reshape(batch_size, 2 * num_pairs)
    tokens = np.concatenate([pairs, np.take_along_axis(keys, asked, axis=1)], axis=1)
    labels = np.full_like(tokens, IGNORED)
    labels[:, -1:] = np.take_along_axis(values, asked, axis=1)
    return _batch(tokens, labels)


def cipher(step: int, *, batch_size: int, num_symbols: int, chunk_size: int, seed: int) -> Batch:
    """Substitution cipher whose key stands in the neighbours only: does a model read its neighbours at all?

    A row is a chunk without information, then every symbol once, in a random order, each followed by its
    cipher, which is the answer. Each row has a key of its own, so its text tells nothing about the answers to
    come; the one neighbour of each of its chunks lists the key, in another order each.

    Args:
        step: Number of the batch.
        batch_size: Rows.
        num_symbols: Symbols are ids 0 to ``num_symbols - 1``, their ciphers the as many ids after them; the first
            chunk repeats the id ``2 * num_symbols``.
        chunk_size: Tokens of the model's chunks.
        seed: Another seed gives other rows.

    Raises:
        ValueError: If a size is below 1, or the key is shorter than a chunk.
    """
    check_sizes(batch_size=batch_size, num_symbols=num_symbols, chunk_size=chunk_size)
    if 2 * num_symbols < chunk_size:
        raise ValueError(
            f"num_symbols must be at least chunk_size / 2, as a neighbour is no shorter than a chunk, but is "
            f"{num_symbols} for a chunk_size of {chunk_size}."
        )
    random = np.random.default_rng((seed, step))
    key = num_symbols + random.integers(num_symbols, size=(batch_size, num_symbols))

    def listed() -> np.ndarray:
        """The symbols of each row in a random order, each followed by its cipher."""
        order = random.random(key.shape).argsort(axis=1)
        return np.stack([order, np.take_along_axis(key, order, axis=1)], axis=2).reshape(batch_size, -1)

    header = np.full((batch_size, chunk_size), 2 * num_symbols)
    text = np.concatenate([header, listed()], axis=1)
    labels = np.full_like(text[:, 1:], IGNORED)
    labels[:, chunk_size::2] = text[:, chunk_size + 1 :: 2]
    chunks = (text.shape[1] - 1) // chunk_size
    neighbours = np.stack([listed() for _ in range(chunks)], axis=1)[:, :, None]
    return replace(_batch(text[:, :-1], labels), extra_inputs={"neighbours": torch.from_numpy(neighbours)})


def _batch(tokens: np.ndarray, labels: np.ndarray) -> Batch:
    starts = np.zeros(tokens.shape, dtype=np.bool_)
    starts[:, 0] = True
    return Batch(
        tokens=torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64)),
        labels=torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64)),
        starts=torch.from_numpy(starts),
    )
