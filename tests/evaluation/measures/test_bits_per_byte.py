"""Bits per byte against a direct sum over tokens, one at a time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laws.families import small_model
from retentive.data.token_store import TokenStore
from retentive.errors import MismatchError
from retentive.evaluation.measures.bits_per_byte import BitsPerByte, bits_per_byte_in_one_pass, bits_per_byte_in_windows
from retentive.evaluation.measures.documents import select_documents
from retentive.evaluation.measures.loss_by_position import loss_by_position
from retentive.evaluation.measures.scoring import score_in_one_pass, score_in_windows, token_nats
from retentive.models.base import DecoderModel

WINDOW, STRIDE = 8, 3
VOCAB = 300
FAMILIES = ("transformer", "retnet")


def model_of(family: str) -> DecoderModel:
    return small_model(family, vocab_size=VOCAB)


def direct_sum(model: DecoderModel, store: TokenStore, *, in_windows: bool) -> tuple[float, int, int, int]:
    """Nats, bytes and number of all scored tokens, each from a call of its own, and of documents that have some."""
    nats, text_bytes, count = 0.0, 0, 0
    with_target = 0
    for document in store.documents:
        if document.split != "heldout":
            continue
        begin = int(store.document_offsets("heldout")[document.index])
        text = store.tokens("heldout")[begin : begin + document.num_tokens - 1].astype(np.int64)
        with_target += len(text) > 0
        read = np.concatenate(([store.tokenizer.end_of_text], text))
        for target in range(len(text)):
            # The first window that reaches the target is the one that scores it.
            number = max(0, math.ceil((target + 1 - WINDOW) / STRIDE)) if in_windows else 0
            context = torch.from_numpy(read[number * STRIDE : target + 1])[None]
            log_probabilities = model(context, logits_to_keep=1).logits[0, -1].log_softmax(0)
            nats -= log_probabilities[int(text[target])].item()
            text_bytes += len(store.tokenizer.token_bytes(int(text[target])))
            count += 1
    return nats, text_bytes, count, with_target


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["windows", "one_pass"])
def test_it_is_the_direct_sum_over_tokens(family: str, method: str, store: TokenStore):
    model, documents = model_of(family), select_documents(store)
    nats, text_bytes, count, with_target = direct_sum(model, store, in_windows=method == "windows")
    if method == "windows":
        found = bits_per_byte_in_windows(model, documents, window=WINDOW, stride=STRIDE)
        assert (found.window, found.stride) == (WINDOW, STRIDE)
    else:
        found = bits_per_byte_in_one_pass(model, documents, chunk_size=5)
        assert (found.window, found.stride) == (None, None)
    assert (found.method, found.tokens, found.bytes, found.documents) == (method, count, text_bytes, with_target)
    assert found.bits_per_byte == pytest.approx(nats / text_bytes / math.log(2), rel=1e-12)
    assert found.nats_per_token == pytest.approx(nats / count, rel=1e-12)
    assert found.seconds > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_both_ways_agree_when_a_window_covers_the_document(family: str, store: TokenStore):
    model, documents = model_of(family), select_documents(store)
    in_windows = bits_per_byte_in_windows(model, documents, window=64, stride=32)
    in_one_pass = bits_per_byte_in_one_pass(model, documents, chunk_size=7)
    assert in_windows.bits_per_byte == pytest.approx(in_one_pass.bits_per_byte, rel=1e-12)
    assert in_windows.standard_error == pytest.approx(in_one_pass.standard_error, rel=1e-12)
    assert (in_windows.tokens, in_windows.bytes) == (in_one_pass.tokens, in_one_pass.bytes)


def numbers(result: BitsPerByte) -> dict[str, float | None]:
    names = ("bits_per_byte", "standard_error", "nats_per_token", "tokens", "bytes", "documents")
    return {name: getattr(result, name) for name in names}


@pytest.mark.parametrize("family", FAMILIES)
@given(batch_size=st.integers(1, 9), chunk_size=st.integers(1, 50))
@settings(deadline=None, max_examples=6)
def test_batch_and_chunk_size_change_nothing(family: str, batch_size: int, chunk_size: int, bpe_store: TokenStore):
    model, documents = model_of(family), select_documents(bpe_store)
    alone = bits_per_byte_in_windows(model, documents, window=WINDOW, stride=STRIDE, batch_size=1)
    together = bits_per_byte_in_windows(model, documents, window=WINDOW, stride=STRIDE, batch_size=batch_size)
    assert numbers(together) == pytest.approx(numbers(alone), rel=1e-11)
    whole = bits_per_byte_in_one_pass(model, documents, chunk_size=64, batch_size=1)
    in_chunks = bits_per_byte_in_one_pass(model, documents, chunk_size=chunk_size, batch_size=batch_size)
    assert numbers(in_chunks) == pytest.approx(numbers(whole), rel=1e-11)


@given(window=st.integers(1, 50), stride=st.integers(1, 50), batch_size=st.integers(1, 7))
@settings(deadline=None, max_examples=8)
def test_each_token_is_scored_once(window: int, stride: int, batch_size: int, byte_store: TokenStore):
    model, documents = model_of("retnet"), select_documents(byte_store)
    expected = [
        (number, position, int(token))
        for number in documents.numbers.tolist()
        for position, token in enumerate(documents.text(number).tolist(), start=1)
    ]
    cut = documents.windows(window=window, stride=min(stride, window), batch_size=batch_size)
    windows = score_in_windows(model, cut)
    one_pass = score_in_one_pass(model, documents, chunk_size=window, batch_size=batch_size)
    for scores in (windows, one_pass):
        found = [
            place
            for scored in scores
            for place in zip(scored.document.tolist(), scored.position.tolist(), scored.token.tolist(), strict=True)
        ]
        assert sorted(found) == sorted(expected)
    assert len(expected) == documents.num_scored


def test_one_pass_reads_each_token_once_and_no_more_than_a_chunk(byte_store: TokenStore):
    model, documents = model_of("retnet"), select_documents(byte_store)
    calls: list[tuple[int, int]] = []

    def note(_: object, arguments: tuple[torch.Tensor, ...], options: dict[str, torch.Tensor | None]) -> None:
        mask = options["mask"]
        calls.append((arguments[0].shape[1], arguments[0].numel() if mask is None else int(mask.sum())))

    model.register_forward_pre_hook(note, with_kwargs=True)
    bits_per_byte_in_one_pass(model, documents, chunk_size=6, batch_size=2)
    assert max(columns for columns, _ in calls) == 6
    assert sum(read for _, read in calls) == documents.num_scored


def test_characters_that_are_split_between_tokens_count_by_their_bytes(bpe_store: TokenStore):
    tokenizer, documents = bpe_store.tokenizer, select_documents(bpe_store)
    tokens = np.concatenate([documents.text(number) for number in documents.numbers.tolist()])
    pieces = [tokenizer.token_bytes(int(token)) for token in tokens]
    assert any(not _is_text(piece) for piece in pieces), "the corpus must split some character"
    assert any(len(piece) > 2 for piece in pieces), "the corpus must join some bytes"
    found = bits_per_byte_in_one_pass(model_of("retnet"), documents)
    assert found.bytes == documents.coverage.text_bytes


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_knows_nothing_needs_the_logarithm_of_its_vocabulary(family: str, byte_store: TokenStore):
    model = model_of(family)
    with torch.no_grad():
        model.decoder.head.weight.zero_()
    for found in (
        bits_per_byte_in_windows(model, select_documents(byte_store)),
        bits_per_byte_in_one_pass(model, select_documents(byte_store)),
    ):
        assert found.bits_per_byte == pytest.approx(math.log2(VOCAB), rel=1e-12)
        assert found.standard_error == pytest.approx(0, abs=1e-12)


def test_dropout_is_off_and_the_mode_is_left_as_it_was(byte_store: TokenStore):
    model, documents = small_model("retnet", vocab_size=VOCAB, dropout=0.5), select_documents(byte_store)
    expected = bits_per_byte_in_windows(model, documents).bits_per_byte
    model.train()
    assert bits_per_byte_in_windows(model, documents).bits_per_byte == expected
    assert bits_per_byte_in_one_pass(model, documents).bits_per_byte == pytest.approx(expected, rel=1e-12)
    assert model.training


def test_every_scored_token_is_told_to_the_caller(byte_store: TokenStore):
    told: list[int] = []
    found = bits_per_byte_in_windows(
        model_of("retnet"), select_documents(byte_store), batch_size=2, on_tokens=told.append
    )
    assert sum(told) == found.tokens
    assert len(told) > 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("logits_at_once", [1, 2 * VOCAB, 7 * VOCAB, 1 << 26])
def test_few_logits_at_once_give_the_same_losses(family: str, logits_at_once: int):
    model = model_of(family)
    generator = torch.Generator().manual_seed(0)
    tokens, labels = torch.randint(0, VOCAB, (2, 2, 11), generator=generator)
    labels[:, :3] = -100
    labels[1, 5] = -100
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[1, 9:] = False
    labels[~mask] = -100
    with torch.no_grad():
        nats, state = token_nats(model, tokens, labels, mask=mask, logits_at_once=logits_at_once)
        whole = model(tokens, mask=mask)
        expected = torch.nn.functional.cross_entropy(whole.logits.transpose(1, 2), labels, reduction="none")
        following = model(tokens[:, :1], state).logits
    torch.testing.assert_close(nats, expected, rtol=0, atol=1e-12)
    assert nats[:, :3].eq(0).all()
    torch.testing.assert_close(following, model(tokens[:, :1], whole.state).logits, rtol=0, atol=1e-12)


def test_nothing_scored_needs_no_logits():
    tokens = torch.zeros(1, 4, dtype=torch.long)
    nats, state = token_nats(model_of("retnet"), tokens, torch.full_like(tokens, -100))
    assert nats.tolist() == [[0.0] * 4]
    assert state.position.tolist() == [4]


def test_a_model_without_the_stores_tokens_is_refused(bpe_store: TokenStore):
    model, documents = small_model("retnet", vocab_size=256), select_documents(bpe_store)
    for measure in (bits_per_byte_in_windows, bits_per_byte_in_one_pass):
        with pytest.raises(MismatchError, match=r"the model has 256 token ids, but the tokenizer of .* has 290"):
            measure(model, documents)


def test_an_encoder_is_not_scored_on_tokens_that_it_sees(byte_store: TokenStore):
    model, documents = small_model("rmt", bidirectional=True), select_documents(byte_store)
    for measure in (bits_per_byte_in_windows, bits_per_byte_in_one_pass, loss_by_position):
        with pytest.raises(ValueError, match="model must predict the next token, but this rmt is an encoder"):
            measure(model, documents)


def test_numbers_out_of_range_are_refused(byte_store: TokenStore):
    model, documents = model_of("retnet"), select_documents(byte_store)
    with pytest.raises(ValueError, match="stride must be at most the window of 4 tokens, but is 5"):
        bits_per_byte_in_windows(model, documents, window=4, stride=5)
    with pytest.raises(ValueError, match="chunk_size must be at least 1, but is 0"):
        bits_per_byte_in_one_pass(model, documents, chunk_size=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, but is 0"):
        bits_per_byte_in_one_pass(model, documents, batch_size=0)


def test_documents_of_one_token_are_scored_from_end_of_text(single_letters: TokenStore):
    model, documents = model_of("retnet"), select_documents(single_letters)
    nats, _, count, _ = direct_sum(model, single_letters, in_windows=False)
    assert count == 2
    for found in (bits_per_byte_in_windows(model, documents), bits_per_byte_in_one_pass(model, documents)):
        assert found.nats_per_token == pytest.approx(nats / 2, rel=1e-12)
