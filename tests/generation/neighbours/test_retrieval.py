"""Neighbours while text is made: found at the ends of chunks, read as in one call over the whole text."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from laws.families import VOCAB, case_name, random_tokens
from models.retro.small import CHUNK, DEEPNORM, RETNET, small_retro
from retentive.checkpoints import load_state, save_state
from retentive.errors import MismatchError
from retentive.generation import OwnNeighbours, Retrieval, Sampling, StoreRetriever, generate, stream
from retentive.retrieval import Datastore
from retentive.text.byte_tokenizer import ByteTokenizer

VARIANTS = [{}, {"backbone": RETNET, "chunk_offset": 1}, DEEPNORM]
PROMPTS = [[3, 1], [5, 9, 2, 6, 5, 3, 5], [8, 9, 7, 9]]


class Finder:
    """Neighbours that depend on the chunk alone; it remembers what it was asked."""

    def __init__(self, k: int = 2) -> None:
        self.k = k
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, chunks: Tensor) -> Tensor:
        self.asked += [tuple(chunk) for chunk in chunks.tolist()]
        known = chunks.clamp_min(0)
        return torch.stack([(known.repeat(1, 2) * (2 + j) + j) % VOCAB for j in range(self.k)], 1)


def whole(model, tokens: Tensor) -> Tensor:
    """Logits of one call over a text, each chunk with its neighbours."""
    chunks = model.ended_chunks(tokens)
    found = [Finder()(row) for row in chunks] if chunks.shape[1] else None
    return model(tokens, neighbours=None if found is None else torch.stack(found)).logits


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
def test_every_step_is_that_of_one_call_over_the_whole_text(changes: dict):
    model, finder = small_retro(**changes), Finder()
    result = generate(model, PROMPTS, max_new_tokens=3 * CHUNK + 2, retriever=finder)
    ended = []
    for prompt, new in zip(PROMPTS, result.tokens, strict=True):
        text = torch.cat((torch.tensor(prompt), new))[None]
        logits = whole(model, text[:, :-1])[0]
        assert logits[len(prompt) - 1 :].argmax(-1).tolist() == new.tolist()
        assert (logits - model(text[:, :-1]).logits[0]).abs().max() > 0.01  # neighbours are read at all
        ended += [tuple(chunk) for chunk in model.ended_chunks(text[:, :-1])[0].tolist()]
    # Once for each chunk and row, and for nothing else; and what was found is encoded once.
    assert sorted(finder.asked) == sorted(ended)
    encoded: list[int] = []
    model.encoder.register_forward_pre_hook(lambda _, given: encoded.append(int((given[0][..., 0] >= 0).sum())))
    again = generate(model, PROMPTS, max_new_tokens=3 * CHUNK + 2, retriever=Finder())
    assert all(torch.equal(a, b) for a, b in zip(again.tokens, result.tokens, strict=True))
    assert sum(encoded) == finder.k * len(ended)


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
def test_a_row_gets_what_it_gets_alone_and_goes_on_from_a_file(changes: dict, tmp_path: Path):
    model = small_retro(**changes)
    sampling = Sampling(temperature=1.0, seed=4)
    once = generate(model, PROMPTS, max_new_tokens=14, sampling=sampling, retriever=Finder())
    for cut in (1, 2, 6):
        first = generate(model, PROMPTS, max_new_tokens=cut, sampling=sampling, retriever=Finder())
        save_state(first.state, tmp_path / "state.safetensors", model)
        state = load_state(tmp_path / "state.safetensors", model)
        second = generate(model, max_new_tokens=14 - cut, sampling=sampling, state=state, retriever=Finder())
        for one, begin, rest in zip(once.tokens, first.tokens, second.tokens, strict=True):
            assert torch.equal(one, torch.cat((begin, rest)))
    greedy = generate(model, PROMPTS, max_new_tokens=9, retriever=Finder())
    for prompt, tokens in zip(PROMPTS, greedy.tokens, strict=True):
        assert torch.equal(generate(model, prompt, max_new_tokens=9, retriever=Finder()).tokens[0], tokens)


def test_rows_that_end_leave_the_others_their_neighbours():
    model = small_retro()
    free = generate(model, PROMPTS, max_new_tokens=12, retriever=Finder()).tokens
    stop = int(free[1][3])
    stopped = generate(model, PROMPTS, max_new_tokens=12, stop_tokens=[stop], retriever=Finder())
    for whole_row, row in zip(free, stopped.tokens, strict=True):
        length = whole_row.tolist().index(stop) + 1 if stop in whole_row.tolist() else 12
        assert torch.equal(row, whole_row[:length])
    assert stopped.state.batch_size == 3
    generate(model, max_new_tokens=3, state=stopped.state, retriever=Finder())


def test_looking_more_often():
    model = small_retro()
    finder = Finder()
    generate(model, PROMPTS[1], max_new_tokens=9, retriever=Retrieval(retriever=finder, every=2))
    # The prompt ends one chunk; then three tokens have passed, so its successor is looked for at once, then every two.
    assert len(finder.asked) == 1 + 4
    text = (
        PROMPTS[1]
        + generate(model, PROMPTS[1], max_new_tokens=9, retriever=Retrieval(retriever=Finder(), every=2))
        .tokens[0]
        .tolist()
    )
    assert finder.asked == [tuple(text[end - CHUNK : end]) for end in (4, 8, 10, 12, 14)]
    each = generate(model, PROMPTS[1], max_new_tokens=9, retriever=Retrieval(retriever=Finder(), every=CHUNK))
    assert len(each.tokens[0]) == 9
    with pytest.raises(ValueError, match="every must be at most chunk_size = 4 tokens, but is 5"):
        generate(model, [1], max_new_tokens=1, retriever=Retrieval(retriever=finder, every=5))


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
def test_a_prompt_that_ends_a_chunk(changes: dict):
    model, finder = small_retro(**changes), Finder()
    offset = model.config.chunk_offset
    retrieval = Retrieval(retriever=finder, end_with_prompt=True)
    result = generate(model, PROMPTS, max_new_tokens=CHUNK, retriever=retrieval)
    for prompt in PROMPTS:
        last = prompt[-CHUNK:]
        assert (*(-1,) * (CHUNK - len(last)), *last) in finder.asked
    # A prompt of whole chunks is read as it always is.
    even = [1, 2, 3, 4, 5, 6, 7, 8, 9][: 8 + offset]
    plain = generate(model, even, max_new_tokens=6, retriever=Finder())
    assert torch.equal(generate(model, even, max_new_tokens=6, retriever=retrieval).tokens[0], plain.tokens[0])
    for prompt, tokens in zip(PROMPTS, result.tokens, strict=True):
        assert torch.equal(generate(model, prompt, max_new_tokens=CHUNK, retriever=retrieval).tokens[0], tokens)


def test_neighbours_of_the_callers_own():
    model = small_retro()
    own = random_tokens(2, 9, seed=5)
    retriever = OwnNeighbours([own[0].tolist(), own[1, :2].tolist()], chunk_size=CHUNK)
    chosen = generate(model, PROMPTS, max_new_tokens=9, retriever=retriever)
    own[1, 2:] = -1
    for prompt, new in zip(PROMPTS, chosen.tokens, strict=True):
        text = torch.cat((torch.tensor(prompt), new))[None, :-1]
        count = model.ended_chunks(text).shape[1]
        logits = model(text, neighbours=own.expand(1, count, 2, 9)).logits[0]
        assert logits[len(prompt) - 1 :].argmax(-1).tolist() == new.tolist()
        assert (logits - model(text).logits[0]).abs().max() > 0.01
    missing = generate(model, PROMPTS, max_new_tokens=9, retriever=lambda chunks: torch.full((len(chunks), 2, 8), -1))
    for a, b in zip(missing.tokens, generate(model, PROMPTS, max_new_tokens=9).tokens, strict=True):
        assert torch.equal(a, b)
    assert OwnNeighbours([[1]], chunk_size=CHUNK)(torch.zeros(3, CHUNK).long()).shape == (3, 1, CHUNK)
    for wrong, lengths in (([], r"\[\]"), ([[1], []], r"\[1, 0\]")):
        with pytest.raises(ValueError, match=f"at least one, and each at least one token, .* lengths are {lengths};"):
            OwnNeighbours(wrong, chunk_size=CHUNK)


@pytest.mark.usefixtures("without_shape_checks")
def test_numbers_of_another_type():
    with pytest.raises(ValueError, match=r"every must be a whole number or None, but is 2\.5 \(float\)"):
        Retrieval(retriever=Finder(), every=2.5)
    with pytest.raises(ValueError, match=r"k must be a whole number, but is 2\.5"):
        StoreRetriever(None, k=2.5)


def test_a_retriever_that_answers_wrongly():
    model = small_retro()
    with pytest.raises(ValueError, match=r"must return integer ids \(int64 or int32\), but returned torch.float32"):
        generate(model, [1, 2, 3, 4], max_new_tokens=1, retriever=lambda chunks: torch.zeros(len(chunks), 1, 8))
    for answer, found in ((torch.zeros(2, 1, 8).long(), r"\(2, 1, 8\)"), ([1], "list")):
        with pytest.raises(ValueError, match=rf"of shape \(chunks, k, length\) for its 1 chunks, but returned {found}"):
            list(stream(model, [1, 2, 3, 4], max_new_tokens=1, retriever=lambda _, answer=answer: answer))


def test_a_datastore_as_retriever(tmp_path: Path):
    text = "the quick brown fox jumps over the lazy dog. " * 3
    store = Datastore.build(
        [("fox", text), ("other", "nothing of the kind is told here, not at all")], tmp_path, chunk_size=8
    )
    from models.retro.small import small_backbone

    model = small_retro(backbone=small_backbone(vocab_size=store.tokenizer.vocab_size + 1), chunk_size=8)
    retriever = StoreRetriever(store, k=2)
    generate(model, list(b"the quick brown "), max_new_tokens=4, retriever=retriever)
    assert [bytes(found.chunk) for found in retriever.found] == [b"the quic", b"k brown "]
    answer = store.search([b"the quic".decode()], k=2)
    assert retriever.found[0].ids == tuple(answer.ids[0].tolist())
    # The end of a text is no text.
    ended, unknown = (torch.tensor([[*b"the ", token, *b"qui"]]) for token in (store.tokenizer.end_of_text, -1))
    assert torch.equal(StoreRetriever(store)(ended), StoreRetriever(store)(unknown))
    # No more is read than there is.
    chunks = torch.tensor([list(b"the quic"), list(b"at all. ")])
    few, many = StoreRetriever(store, k=4)(chunks), StoreRetriever(store, k=10_000)(chunks)
    assert few.shape == (2, 4, 16)
    assert 4 < many.shape[1] <= len(text) // 8 + 7
    assert torch.equal(many[:, :4], few)
    # Another store at evaluation: no retraining.
    other = Datastore.build([("b", "a quick brown cat sat on the mat. " * 2)], tmp_path / "other", chunk_size=8)
    generate(model, list(b"the quick brown "), max_new_tokens=4, retriever=StoreRetriever(other, k=1))
    with pytest.raises(MismatchError, match="chunk_size must be the model's, 4, but is 8; build it with chunk_size=4"):
        generate(small_retro(), [1], max_new_tokens=1, retriever=retriever)
    with pytest.raises(MismatchError, match="must have no more tokens than the model, 23, but has"):
        generate(small_retro(chunk_size=8), [1], max_new_tokens=1, retriever=retriever)
    with pytest.raises(ValueError, match="k must be at least 1 neighbour, but is 0"):
        StoreRetriever(store, k=0)

    class Other(ByteTokenizer):
        def fingerprint(self) -> str:
            return "0" * 64

    with pytest.raises(MismatchError, match="tokenizer must be the model's, but their fingerprints differ"):
        StoreRetriever(store, tokenizer=Other())
