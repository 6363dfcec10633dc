"""Whatever stands beside a document in a batch, it is read as if it were alone: padding, other documents, calls."""

import random

import pytest
import torch
from torch import Tensor

from laws.families import VOCAB, small_model
from retentive.huggingface import RetentiveForCausalLM
from retentive.huggingface.cache import CACHE_NAME
from retentive.models.registry import family_names

ROWS, COLUMNS = 3, 14


def drawn(seed: int) -> tuple[Tensor, Tensor, list[tuple[int, list[int]]]]:
    """A mask with padding anywhere, positions that begin anew, and the columns of each document with its row."""
    chance = random.Random(seed)
    mask = torch.ones(ROWS, COLUMNS, dtype=torch.long)
    positions = torch.zeros_like(mask)
    documents: list[tuple[int, list[int]]] = []
    for row in range(ROWS):
        columns: list[int] = []
        for column in range(COLUMNS):
            if chance.random() < 0.25:
                mask[row, column] = 0
                continue
            if columns and chance.random() < 0.25:
                documents.append((row, columns))
                columns = []
            positions[row, column] = len(columns)
            columns.append(column)
        documents.append((row, columns))
    return mask, positions, documents


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("family", family_names())
@torch.no_grad()
def test_a_document_in_a_batch_is_the_document_alone(family: str, seed: int):
    torch.manual_seed(seed)
    ours = small_model(family)
    theirs = RetentiveForCausalLM.of(ours).eval()
    mask, positions, documents = drawn(seed)
    tokens = torch.randint(0, VOCAB, (ROWS, COLUMNS))
    labels = tokens.where(torch.rand(ROWS, COLUMNS) < 0.8, -100)
    output = theirs(tokens, attention_mask=mask, position_ids=positions, labels=labels)
    pieces, cache = [], None
    for begin, end in ((0, 4), (4, 5), (5, COLUMNS)):
        seen = {"attention_mask": mask[:, :end], "position_ids": positions[:, begin:end], CACHE_NAME: cache}
        piece = theirs(tokens[:, begin:end], use_cache=True, **seen)
        pieces, cache = [*pieces, piece.logits], piece[CACHE_NAME]
    for row, columns in documents:
        if columns:
            alone = ours(tokens[row, columns][None]).logits[0]
            for found in (output.logits, torch.cat(pieces, dim=1)):
                torch.testing.assert_close(found[row, columns], alone, rtol=1e-9, atol=1e-10)
    counted = labels[:, 1:].where(mask[:, :-1] == 1, -100)
    expected = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), counted.flatten())
    torch.testing.assert_close(output.loss, expected)
