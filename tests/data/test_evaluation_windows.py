import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retentive.data.evaluation_windows import EvaluationWindows, bytes_of_labels
from retentive.data.token_store_writer import TokenStoreWriter
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.subword_tokenizer import SubwordTokenizer, train_bpe
from text.vocabularies import sentencepiece_style

VOCAB_SIZE = 300
END = VOCAB_SIZE - 1
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def scored(windows):
    """For each scored token its document, position there, label, and how many tokens the model sees before it."""
    for batch in windows:
        for row in range(len(batch.tokens)):
            for column in (batch.labels[row] != -100).nonzero().flatten().tolist():
                position = int(batch.offset[row]) + column
                yield int(batch.document[row]), position, int(batch.labels[row, column]), column + 1


@given(lengths=LENGTHS, window=st.integers(1, 16), with_end=st.booleans(), data=st.data())
def test_every_token_is_scored_once_with_its_context(store_of, lengths, window, with_end, data):
    stride = data.draw(st.integers(1, window))
    expected, first = {}, 0
    for document, size in enumerate(lengths):
        ids = [*range(first, first + size)] + [END] * with_end
        expected |= {(document, position): label for position, label in enumerate(ids)}
        first += size
    store = store_of([1], heldout=lengths, vocab_size=VOCAB_SIZE)
    shift = 1  # the training document took token 0
    arguments = {"window": window, "stride": stride, "batch_size": 3, "score_end_of_text": with_end}
    windows = EvaluationWindows(store, **arguments)
    found = list(scored(windows))
    by_place = {(document, position): label for document, position, label, _ in found}
    assert len(found) == len(by_place) == windows.num_scored
    assert by_place == {place: label + shift * (label != END) for place, label in expected.items()}
    for _, position, _, context in found:
        before = position + 1  # with the end-of-text that begins the document
        assert min(before, window - stride + 1) <= context <= min(before, window)


@given(lengths=LENGTHS, batch_size=st.integers(1, 5))
def test_rows_are_pieces_of_their_documents(store_of, lengths, batch_size):
    store = store_of([1], heldout=[*lengths, 2], vocab_size=VOCAB_SIZE)
    tokens, offsets = store.tokens("heldout"), store.document_offsets("heldout")
    windows = EvaluationWindows(store, window=8, stride=4, batch_size=batch_size)
    batches = list(windows)
    assert len(batches) == len(windows)
    for batch in batches:
        for row in range(len(batch.tokens)):
            length = int(batch.mask[row].sum())
            assert batch.mask[row, :length].all()
            begin = int(offsets[batch.document[row]] + batch.offset[row])
            before = tokens[begin - 1] if batch.offset[row] else END
            assert batch.tokens[row, :length].tolist() == [before, *tokens[begin : begin + length - 1]]
            following = torch.from_numpy(tokens[begin : begin + length].astype("int64"))
            has_label = batch.labels[row, :length] != -100
            assert torch.equal(batch.labels[row, :length][has_label], following[has_label])
            assert has_label.any()
            assert (batch.labels[row, length:] == -100).all()
            assert (batch.tokens[row, length:] == END).all()


@pytest.fixture(scope="module", params=["bytes", "bpe", "prefix space"])
def real_store(request, tmp_path_factory, some_texts):
    if request.param == "bytes":
        tokenizer = ByteTokenizer()
    elif request.param == "bpe":
        tokenizer = train_bpe(some_texts[:30], vocab_size=320)
    else:
        tokenizer = SubwordTokenizer(sentencepiece_style().to_str(), name="file", end_of_text="</s>")
    with TokenStoreWriter(tmp_path_factory.mktemp("real"), tokenizer) as writer:
        for text in some_texts:
            (ids,) = tokenizer.encode_batch([text])
            writer.add("text", ids, num_bytes=len(text.encode()), split="heldout")
        writer.add("text", ids, num_bytes=len(text.encode()), split="train")
        return writer.finish()


def test_bytes_of_characters_of_many_bytes_are_counted_right(real_store, some_texts):
    windows = EvaluationWindows(real_store, window=16, stride=8, batch_size=4)
    scored_bytes = sum(int(batch.scored_bytes.sum()) for batch in windows)
    assert scored_bytes == sum(len(text.encode()) for text in some_texts)


def test_a_uniform_model_has_the_bits_per_byte_that_it_must(real_store):
    windows = EvaluationWindows(real_store, window=16, stride=8, batch_size=4)
    vocab_size = real_store.tokenizer.vocab_size
    bits = nats = scored_bytes = 0.0
    for batch in windows:
        logits = torch.zeros(*batch.tokens.shape, vocab_size, dtype=torch.float64)
        nats += torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="sum").item()
        scored_bytes += batch.scored_bytes.sum().item()
    bits = nats / math.log(2)
    expected = math.log2(vocab_size) * windows.num_scored / scored_bytes
    assert bits / scored_bytes == pytest.approx(expected, rel=1e-12)
    if vocab_size == 257:
        assert expected == pytest.approx(math.log2(257))


def test_ends_of_text_have_no_bytes(real_store):
    with_ends = EvaluationWindows(real_store, window=16, stride=8, score_end_of_text=True)
    without = EvaluationWindows(real_store, window=16, stride=8)
    assert with_ends.num_scored == without.num_scored + real_store.manifest.splits["heldout"].documents
    total = [sum(int(batch.scored_bytes.sum()) for batch in windows) for windows in (with_ends, without)]
    assert total[0] == total[1]


def test_some_documents_can_be_chosen(store_of):
    store = store_of([1], heldout=[5, 9, 7])
    windows = EvaluationWindows(store, window=4, stride=2, documents=[2, 0])
    assert {document for document, *_ in scored(windows)} == {0, 2}
    assert windows.num_scored == 7 + 5


def test_labels_without_a_token_have_no_bytes():
    lengths = torch.tensor([1, 4, 0])
    assert bytes_of_labels(torch.tensor([[1, -100, 2, 0]]), lengths).tolist() == [[4, 0, 0, 1]]


def test_impossible_arguments_are_refused(store_of):
    store = store_of([5], heldout=[5, 5])
    with pytest.raises(ValueError, match="stride must be at most the window of 4 tokens, but is 5"):
        EvaluationWindows(store, window=4, stride=5)
    with pytest.raises(ValueError, match="batch_size must be at least 1, but is 0"):
        EvaluationWindows(store, batch_size=0)
    with pytest.raises(ValueError, match=r"different numbers from 0 to 1, but are \[0, 2\]"):
        EvaluationWindows(store, documents=[0, 2])
    with pytest.raises(ValueError, match=r"different numbers from 0 to 1, but are \[1, 1\]"):
        EvaluationWindows(store, documents=[1, 1])
    with pytest.raises(IndexError, match="batch must be from 0 to 0, but is 1"):
        EvaluationWindows(store).batch(1)
    with pytest.raises(ValueError, match=r"split 'heldout' of .* has no document"):
        EvaluationWindows(store_of([5]))
