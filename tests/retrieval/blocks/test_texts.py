import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive.errors import DamagedFileError
from retentive.retrieval import Datastore
from retentive.retrieval.blocks import texts
from retentive.retrieval.blocks.block import block_path, read_block
from retentive.retrieval.blocks.chunking import CHUNKS
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.loading import load_tokenizer
from retentive.text.subword_tokenizer import train_bpe

TEXTS = ["", "plain\nlines\n", "naïve 東京 🦉\r\nzwei\n", "हिन्दी में शब्द\n", "x" * 70, "\n\n\n"]


def word_piece(folder):
    """A vocabulary that writes lower case and drops white space, as BERT's."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    letters = sorted({letter for text in TEXTS for letter in text.lower()} - set(" \n\r"))
    pieces = ["[UNK]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), "plain", "line"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(["[UNK]", "[SEP]"])
    made.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder / "tokenizer.json")


@pytest.fixture(params=["bytes", "bpe", "word piece"])
def tokenizer(request, tmp_path):
    if request.param == "bytes":
        return ByteTokenizer()
    return train_bpe(TEXTS, vocab_size=270) if request.param == "bpe" else word_piece(tmp_path)


def test_the_text_of_a_document_comes_back_and_its_chunks_share_it_out(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(texts, "PAGE_BYTES", 16)
    documents = [(str(number), text) for number, text in enumerate(TEXTS)]
    corpus = Datastore.build(documents, tmp_path / "s", tokenizer=tokenizer, chunk_size=4, block_bytes=60).corpus
    for number, text in enumerate(TEXTS):
        content = text.encode()
        assert (corpus.text(number), corpus.text_bytes(number)) == (text, len(content))
        begins, ends = corpus.spans(np.array(corpus.chunks_of(number), dtype=np.int64))
        assert [*begins[1:]] == [*ends[:-1]]
        if len(begins):
            assert (begins[0], ends[-1]) == (0, len(content))
            assert (np.diff(begins) >= 0).all()
        for place in range(len(content) + 1):
            assert corpus.line(number, place) == content[:place].count(b"\n") + 1
            assert corpus.content(number, place, place + 5) == content[place : place + 5]
    assert [value.tolist() for value in corpus.spans(np.array([-1]))] == [[-1], [-1]]


def test_a_chunk_begins_with_its_first_token(tmp_path, tokenizer):
    text = "plain  line\nplain line"
    corpus = Datastore.build([("a", text)], tmp_path / "s", tokenizer=tokenizer, chunk_size=1).corpus
    begins, _ = corpus.spans(np.arange(corpus.num_chunks))
    whole = tokenizer.encode(text)
    for number, begin in enumerate(begins.tolist()):
        assert tokenizer.encode(text.encode()[begin:].decode())[0] == whole[number]


def test_metadata_comes_back(tmp_path):
    known = [{"year": 1999, "title": "Eulen"}, {}, {"draft": True, "score": 0.5, "none": None}]
    documents = [(str(number), "text", columns) for number, columns in enumerate(known)]
    store = Datastore.build(documents, tmp_path / "s")
    assert [Datastore.open(tmp_path / "s").corpus.metadata(number) for number in range(3)] == known
    report = store.add([("0", "text", {"year": 2000, "title": "Eulen"})], replace=True)
    assert report.made["chunks"] == 1
    assert store.add([("0", "text", {"title": "Eulen", "year": 2000})]).made == {}
    assert store.corpus.metadata(3) == {"year": 2000, "title": "Eulen"}


@settings(max_examples=30)
@given(contents=st.lists(st.text(alphabet="ab\n🦉", max_size=40), max_size=5))
def test_texts_pack_the_same_each_time(contents):
    with tempfile.TemporaryDirectory() as place:
        packed = [texts.pack_texts(contents, [{}] * len(contents), Path(place)) for _ in range(2)]
        made = [
            {name: one if isinstance(one, np.ndarray) else one.read() for name, one in arrays.items()}
            for arrays in packed
        ]
    first, second = ({name: array.tobytes() for name, array in arrays.items()} for arrays in made)
    assert first == second


def test_a_flipped_byte_of_text_is_found_when_it_is_read(tmp_path):
    text = " ".join(f"word{number}" for number in range(400))
    store = Datastore.build([("a", text, {"year": 1})], tmp_path / "s", chunk_size=64)
    path = block_path(store.folder, CHUNKS, store.manifest.chunks[0].key)
    sound = path.read_bytes()
    for name, read in {"pages": store.corpus.text, "metadata": store.corpus.metadata}.items():
        frame = read_block(store.folder, CHUNKS, path.stem).arrays[name].tobytes()
        place = sound.index(frame)
        for at in (place, place + len(frame) // 2, place + len(frame) - 1):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 4]) + sound[at + 1 :])
            texts.forget_blocks()
            with pytest.raises(DamagedFileError, match="its checksum was taken of"):
                read(0)
        path.write_bytes(sound)
        texts.forget_blocks()
