"""Neighbours in front of the context (RALM, Ram et al. 2023, arXiv:2302.00083): any model reads them, untrained."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64

from retentive.data.batch import IGNORED
from retentive.data.neighbours.batches import FindsNeighbours
from retentive.evaluation.measures.chunk_scores import Chunks, ChunkScores
from retentive.evaluation.measures.mode import evaluating
from retentive.evaluation.measures.scoring import Hook, quiet
from retentive.models.protocol import LanguageModel
from retentive.text.tokenizer import token_byte_lengths


@dataclass(frozen=True, slots=True)
class _Row:
    """What is read for one chunk: the tokens before it, and the chunk."""

    number: int
    before: Int64[np.ndarray, "_"]
    chunk: Int64[np.ndarray, "_"]


def score_in_context(
    model: LanguageModel,
    chunks: Chunks,
    neighbours: FindsNeighbours | None,
    *,
    context: int,
    batch_size: int = 16,
    on_tokens: Hook = quiet,
) -> ChunkScores:
    """Score every chunk after the end of its document so far, and after the neighbours of the chunk before it.

    A row is begin-of-text, the neighbours (the nearest last), and at most ``context`` tokens of the document. The
    neighbours of a chunk are those that RETRO reads there: found for the chunk before it, so the first has none.

    Args:
        model: The model to measure.
        chunks: What is scored.
        neighbours: Of the chunks; None reads none.
        context: Tokens of the document before the chunk.
        batch_size: Rows side by side. Changes speed and memory, never results.
        on_tokens: Called with the number of tokens scored since its last call.
    """
    chunks.documents.check_model(model)
    store = chunks.documents.store
    begin, lengths = store.manifest.tokenizer.document_begin, token_byte_lengths(store.tokenizer)
    gap = np.asarray(store.tokenizer.encode("\n\n"), dtype=np.int64)
    count = int(chunks.counts.sum())
    nats, num_bytes = np.zeros(count), np.zeros(count, dtype=np.int64)
    rows = list(_rows(chunks, neighbours, context, begin, gap))
    rows.sort(key=lambda row: -len(row.before))  # rows side by side are of similar lengths
    for first in range(0, count, batch_size):
        some = rows[first : first + batch_size]
        for row, loss in zip(some, _losses(model, some, begin), strict=True):
            nats[row.number] = loss
            num_bytes[row.number] = int(lengths[row.chunk].sum())
        on_tokens(sum(len(row.chunk) for row in some))
    return ChunkScores(nats=nats, num_bytes=num_bytes)


def _rows(
    chunks: Chunks, neighbours: FindsNeighbours | None, context: int, begin: int, gap: Int64[np.ndarray, "_"]
) -> Iterator[_Row]:
    size, number = chunks.chunk_size, 0
    for document, length in zip(chunks.documents.numbers.tolist(), chunks.documents.lengths.tolist(), strict=True):
        text = chunks.documents.text(document).astype(np.int64)
        places = np.arange(0, length, size)
        found = None
        if neighbours is not None and len(places) > 1:
            asked = np.arange(len(places) - 1)
            found = neighbours.tokens(np.full_like(asked, document), asked)
        for chunk, place in enumerate(places.tolist()):
            parts = [np.array([begin], dtype=np.int64)]
            if found is not None and chunk:
                for each in found[chunk - 1][::-1]:
                    parts += [each[each >= 0], gap] if (each >= 0).any() else []
            parts.append(text[max(0, place - context) : place])
            yield _Row(number, np.concatenate(parts), text[place : place + size])
            number += 1


def _losses(model: LanguageModel, rows: list[_Row], begin: int) -> list[float]:
    """The sum over each row's chunk, in nats."""
    whole = [np.concatenate([row.before, row.chunk]) for row in rows]
    width = max(len(row) - 1 for row in whole)
    tokens, labels = np.full((len(rows), width), begin), np.full((len(rows), width), IGNORED)
    mask = np.zeros((len(rows), width), dtype=np.bool_)
    for line, (row, ids) in enumerate(zip(rows, whole, strict=True)):
        end = len(ids) - 1
        tokens[line, :end], mask[line, :end] = ids[:-1], True
        labels[line, len(row.before) - 1 : end] = row.chunk
    device = model.device
    targets = torch.from_numpy(labels).to(device)
    with evaluating(model):
        # The last columns alone: logits of a large vocabulary take most of the memory.
        keep = width - min(len(row.before) - 1 for row in rows)
        output = model(torch.from_numpy(tokens).to(device), mask=torch.from_numpy(mask).to(device), logits_to_keep=keep)
        assert output.logits is not None
        loss = torch.nn.functional.cross_entropy(
            output.logits.float().flatten(0, 1), targets[:, -keep:].flatten(), ignore_index=IGNORED, reduction="none"
        )
    return loss.view(len(rows), -1).double().sum(1).tolist()
