"""The longest common run, beside a search that tries all; and passages that begin elsewhere in their documents."""

from pathlib import Path

import numpy as np

from retentive.retrieval import Datastore
from retentive.retrieval.neighbours.common_runs import common_runs, shifted


def longest_by_trying(chunk: list[int], passage: list[int]) -> tuple[int, set[int]]:
    best, shifts = 0, {0}
    for i in range(len(chunk)):
        for j in range(len(passage)):
            length = 0
            while (
                i + length < len(chunk)
                and j + length < len(passage)
                and chunk[i + length] == passage[j + length]
                and chunk[i + length] >= 0
            ):
                length += 1
            if length > best:
                best, shifts = length, set()
            if length == best and best:
                shifts.add(j - i)
    return best, shifts


def test_the_longest_run_and_its_place_are_found():
    random = np.random.default_rng(0)
    chunks, passages = random.integers(-1, 4, (12, 7)), random.integers(-1, 4, (12, 3, 14))
    chunks[0] = 9
    found = common_runs(chunks, passages)
    for row, chunk in enumerate(chunks.tolist()):
        for slot, passage in enumerate(passages[row].tolist()):
            length, shifts = longest_by_trying(chunk, passage)
            assert found.lengths[row, slot] == length
            assert found.shifts[row, slot] in shifts


def test_shifted_passages_are_the_document_from_another_place_on(tmp_path: Path):
    texts = {"one": "abcdefghijklmnopqrstuvwxyz", "two": "0123456789"}
    corpus = Datastore.build(texts.items(), tmp_path, chunk_size=4).corpus
    for document, (name, text) in enumerate(sorted(texts.items(), key=lambda item: list(texts).index(item[0]))):
        assert corpus.document_name(document) == name
        for number, identity in enumerate(corpus.chunks_of(document)):
            for shift in (-3, 0, 1, 7):
                begin = 4 * number + shift
                wanted = [ord(text[at]) if 0 <= at < len(text) else -1 for at in range(begin, begin + 8)]
                ids, shifts = np.array([[identity, -1]]), np.array([[shift, shift]])
                assert shifted(corpus, ids, shifts)[0].tolist() == [wanted, [-1] * 8]
