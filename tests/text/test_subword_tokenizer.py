import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from retentive.errors import DamagedFileError, MismatchError
from retentive.text import pieces
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.loading import load_tokenizer
from retentive.text.subword_tokenizer import END_OF_TEXT, SubwordTokenizer, train_bpe
from retentive.text.tokenizer import DESCRIPTION_FILE, TOKENIZER_FILE, Tokenizer, decode_batch, token_byte_lengths
from text.vocabularies import sentencepiece_style

TEXTS = ["the cat sat on the mat, the naïve café\n" * 20, "def main(argument):\n    return argument\n" * 20]
# Ordinary text, and text that looks like what vocabularies treat specially.
ANY_TEXT = st.text() | st.lists(
    st.sampled_from(
        [END_OF_TEXT, "<|end", "oftext|>", "</s>", "<0x41>", "▁", "Ġ", " ", "\r\n", "the cat", "é", "\u0301"]
    )
).map("".join)


@pytest.fixture(scope="module")
def bpe() -> SubwordTokenizer:
    return train_bpe(TEXTS, vocab_size=300)


def opened(library: Library, folder, **arguments) -> Tokenizer:
    path = folder / TOKENIZER_FILE
    path.write_text(library.to_str())
    return load_tokenizer(path, **arguments)


@given(text=ANY_TEXT)
def test_bpe_gives_any_text_back_and_knows_its_bytes(bpe, text):
    ids = bpe.encode(text)
    assert bpe.end_of_text not in ids
    assert bpe.decode(ids) == text
    assert b"".join(map(bpe.token_bytes, ids)) == text.encode()


@given(text=ANY_TEXT)
def test_sentencepiece_style_gives_any_text_back_and_knows_its_bytes(tmp_path_factory, text):
    tokenizer = SubwordTokenizer(sentencepiece_style().to_str(), name="file", end_of_text="</s>")
    ids = tokenizer.encode(text)
    assert tokenizer.end_of_text not in ids
    # U+2581 itself cannot be told from a space in such a vocabulary.
    assert tokenizer.decode(ids) == text.replace("▁", " ")
    prefix = " " if text else ""
    assert b"".join(map(tokenizer.token_bytes, ids)) == (prefix + text.replace("▁", " ")).encode()
    assert tokenizer.adds_prefix_space


def test_pieces_with_scores_that_fall_back_to_bytes_are_known():
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁the", "the", "▁"]
    library = Library(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0, byte_fallback=True))
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    library.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    library.add_special_tokens(["<unk>", "</s>"])
    tokenizer = SubwordTokenizer(library.to_str(), name="file", end_of_text="</s>")
    ids = tokenizer.encode("the naïve 🦆")
    assert b"".join(map(tokenizer.token_bytes, ids)) == " the naïve 🦆".encode()
    assert tokenizer.decode(ids) == "the naïve 🦆"


def test_bpe_merges_what_is_frequent(bpe):
    assert isinstance(bpe, Tokenizer)
    assert len(bpe.encode(TEXTS[0])) < len(TEXTS[0].encode()) / 2
    assert bpe.vocab_size == 300
    assert not bpe.adds_prefix_space


@pytest.mark.parametrize("texts", [[], [""], ["", ""]], ids=str)
def test_a_vocabulary_is_not_learned_from_nothing(texts: list[str]):
    with pytest.raises(ValueError, match="a BPE must learn from some text, but there is none: give more text"):
        train_bpe(texts, vocab_size=300)


@pytest.mark.parametrize(
    "long", ["ab" * 30_000, " \n" * 30_000, "\u4f60\u597d" * 1000], ids=["word", "space", "chinese"]
)
def test_long_words_are_learned_from_in_pieces(long: str):
    size = pieces.LONGEST_WORD
    apart = [long[begin : begin + size] for begin in range(0, len(long), size)]
    learned = train_bpe([long, "and the end"], vocab_size=300)
    assert learned.fingerprint() == train_bpe([*apart, "and the end"], vocab_size=300).fingerprint()
    assert learned.decode(learned.encode(long)) == long


def test_the_same_texts_give_the_same_vocabulary(bpe):
    again = train_bpe(iter(TEXTS), vocab_size=300)
    assert again.fingerprint() == bpe.fingerprint()
    assert train_bpe(TEXTS[:1], vocab_size=300).fingerprint() != bpe.fingerprint()


def test_a_small_corpus_gives_fewer_tokens():
    assert train_bpe(["ab"], vocab_size=10_000).vocab_size == 257


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ValueError, match=r"at least 257 .* but is 256"):
        train_bpe(TEXTS, vocab_size=256)


def test_special_tokens_in_text_stay_text_after_pickling(bpe):
    again = pickle.loads(pickle.dumps(bpe))  # noqa: S301
    assert again.encode(END_OF_TEXT) == bpe.encode(END_OF_TEXT) != [bpe.end_of_text]
    assert again.fingerprint() == bpe.fingerprint()


def test_half_a_character_is_shown_as_such(bpe):
    ids = bpe.encode("数")
    assert len(ids) == 3
    assert "\ufffd" in bpe.decode(ids[:-1])


def test_wrong_ids_and_text_are_refused(bpe):
    with pytest.raises(ValueError, match="from 0 to 299, but one is 300"):
        bpe.decode([300])
    with pytest.raises(ValueError, match="half a surrogate pair"):
        bpe.encode("\udc00")


def test_it_is_read_back(bpe, tmp_path):
    bpe.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.name, loaded.vocab_size, loaded.end_of_text) == ("bpe", bpe.vocab_size, bpe.end_of_text)
    assert loaded.fingerprint() == bpe.fingerprint()
    assert loaded.encode(TEXTS[1]) == bpe.encode(TEXTS[1])


def test_a_file_from_elsewhere_is_kept_byte_for_byte(tmp_path):
    content = json.dumps(json.loads(sentencepiece_style().to_str()), indent=3)
    (tmp_path / "other.json").write_text(content)
    loaded = load_tokenizer(tmp_path / "other.json")
    loaded.save(tmp_path / "saved")
    assert (tmp_path / "saved" / TOKENIZER_FILE).read_text() == content
    assert load_tokenizer(tmp_path / "saved").fingerprint() == loaded.fingerprint()


def test_truncation_padding_and_templates_of_a_file_are_not_used(tmp_path):
    library = sentencepiece_style()
    plain = opened(library, tmp_path).encode("the the the the")
    library.enable_truncation(3)
    library.enable_padding(length=64)
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert opened(library, tmp_path).encode("the the the the") == plain


def test_the_end_of_text_is_found_given_or_asked_for(tmp_path):
    library = sentencepiece_style()
    library.add_special_tokens(["<eos>"])
    with pytest.raises(ValueError, match=r"end_of_text must name the token .*'</s>', '<eos>'"):
        opened(library, tmp_path)
    assert opened(library, tmp_path, end_of_text="</s>").end_of_text == 2
    with pytest.raises(ValueError, match=r"must be in the vocabulary, but is '<end>' .*'<eos>'"):
        opened(library, tmp_path, end_of_text="<end>")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<eos>"}}))
    assert opened(library, tmp_path).end_of_text == library.token_to_id("<eos>")


def test_text_that_would_become_end_of_text_is_refused(tmp_path):
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((c, -2.0) for c in "▁the</>s")]
    library = Library(models.Unigram(pieces, unk_id=0))
    library.pre_tokenizer, library.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    library.add_special_tokens(["<unk>", "</s>"])
    tokenizer = opened(library, tmp_path)
    assert tokenizer.decode(tokenizer.encode("the")) == "the"
    with pytest.raises(ValueError, match="text holds '</s>', which this tokenizer turns into its end-of-text id 1"):
        tokenizer.encode("the </s>")
    with pytest.raises(ValueError, match=r"its decoder \(Metaspace\) is neither byte-level nor with byte fallback"):
        tokenizer.token_bytes(3)


def test_unknown_bytes_are_refused_and_not_guessed(tmp_path):
    lower = sentencepiece_style(normalizer=normalizers.Lowercase())
    with pytest.raises(ValueError, match="its normalizer 'Lowercase' changes the text first"):
        token_byte_lengths(opened(lower, tmp_path))
    words = Library(models.WordPiece({"[UNK]": 0, "[SEP]": 1, "the": 2}, unk_token="[UNK]"))
    words.decoder = decoders.WordPiece()
    with pytest.raises(ValueError, match=r"its decoder \(WordPiece\) is neither byte-level nor with byte fallback"):
        opened(words, tmp_path).token_bytes(2)


def test_gaps_and_added_tokens_of_a_file(tmp_path):
    library = sentencepiece_style()
    library.add_tokens([AddedToken("\t\t", special=False, normalized=False)])
    tokenizer = opened(library, tmp_path)
    assert tokenizer.token_bytes(tokenizer.vocab_size - 1) == b"\t\t"
    assert [tokenizer.token_bytes(special) for special in (0, 1, 2)] == [b"", b"", b""]
    library.add_tokens([AddedToken("[tool]", lstrip=True, special=False, normalized=False)])
    greedy = opened(library, tmp_path)
    assert greedy.token_bytes(greedy.encode("a  [tool]")[-1]) == b"[tool]"
    library.add_tokens([AddedToken("two words", special=False, normalized=True)])
    found_with_its_space = opened(library, tmp_path)
    ids = found_with_its_space.encode("the two words")
    assert b"".join(map(found_with_its_space.token_bytes, ids)) == b" the two words"
    description = json.loads(library.to_str())
    description["model"]["vocab"]["far"] = 1000
    (tmp_path / "far.json").write_text(json.dumps(description))
    far = load_tokenizer(tmp_path / "far.json")
    assert far.vocab_size == 1001
    assert token_byte_lengths(far).shape == (1001,)


def test_damaged_and_missing_files_are_named(tmp_path, bpe):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer file .*absent"):
        load_tokenizer(tmp_path / "absent")
    (tmp_path / "bad.json").write_text('{"model": 3}')
    with pytest.raises(DamagedFileError, match=r"not a tokenizer\.json that can be read"):
        load_tokenizer(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DamagedFileError, match=r"bad\.json is not UTF-8"):
        load_tokenizer(tmp_path / "bad.json")
    bpe.save(tmp_path)
    (tmp_path / TOKENIZER_FILE).write_text("{")
    with pytest.raises(DamagedFileError, match=r"tokenizer\.json: not a tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / DESCRIPTION_FILE).write_text(json.dumps({"format_version": 2, "kind": "bpe"}))
    with pytest.raises(MismatchError, match="format version 2, but this retentive reads 1"):
        load_tokenizer(tmp_path)
    (tmp_path / DESCRIPTION_FILE).write_text(json.dumps({"format_version": 1, "kind": "words"}))
    with pytest.raises(MismatchError, match="of kind 'words', but this retentive knows bytes"):
        load_tokenizer(tmp_path)
    for content in ({"kind": "bpe"}, {"end_of_text": "x"}):
        (tmp_path / DESCRIPTION_FILE).write_text(json.dumps({"format_version": 1, **content}))
        with pytest.raises(DamagedFileError, match="describes no tokenizer"):
            load_tokenizer(tmp_path)


def test_an_end_of_text_for_our_own_tokenizer_is_refused(tmp_path):
    ByteTokenizer().save(tmp_path)
    with pytest.raises(ValueError, match="end_of_text is for a tokenizer from elsewhere"):
        load_tokenizer(tmp_path, end_of_text="</s>")


def test_many_rows_are_decoded_as_each_one_is(bpe):
    for tokenizer in (bpe, ByteTokenizer()):
        rows = [tokenizer.encode("naïve text"), [], [tokenizer.end_of_text], tokenizer.encode("ï")[:1]]
        rows.append([*rows[0], tokenizer.end_of_text, *rows[0]])
        assert decode_batch(tokenizer, rows) == [tokenizer.decode(row) for row in rows]
