import numpy as np
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import models, normalizers, pre_tokenizers, trainers

from retentive.text import pieces
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.nucleotide_tokenizer import NucleotideTokenizer
from retentive.text.subword_tokenizer import SubwordTokenizer, train_bpe
from retentive.text.tokenizer import encode_pieces, encode_with_begins
from text.vocabularies import sentencepiece_style

WORDS = "The owl's wings don't sound; naïve 東京 🦉👩‍👩‍👧 नमस्ते e\u0301 12,345 </s x\n\n    indented\tend. "
TEXTS = {
    "words": WORDS * 30,
    "one word": "ab1" * 900,
    "spaces": " " * 900 + "a" + "\n" * 900,
    "lines": "\n".join("x" * (number * 7 % 90) for number in range(60)),
    "short": "owl",
    "none": "",
}


def trained(library, trainer, **parts):
    for name, part in parts.items():
        setattr(library, name, part)
    library.train_from_iterator([WORDS * 3], trainer(vocab_size=300, special_tokens=["</s>", "[UNK]"]))
    return SubwordTokenizer(library.to_str(), name="file", end_of_text="</s>")


def word_piece():
    parts = {"normalizer": normalizers.BertNormalizer(), "pre_tokenizer": pre_tokenizers.BertPreTokenizer()}
    return trained(Library(models.WordPiece(unk_token="[UNK]")), trainers.WordPieceTrainer, **parts)


def byte_level(**options):
    return trained(Library(models.BPE()), trainers.BpeTrainer, pre_tokenizer=pre_tokenizers.ByteLevel(**options))


def with_added_spaces():
    library = Library.from_str(byte_level()._description)
    library.add_tokens(["  ", "\n\n"])
    return SubwordTokenizer(library.to_str(), name="file", end_of_text="</s>")


TOKENIZERS = {
    "bytes": ByteTokenizer,
    "ours": lambda: train_bpe([WORDS] * 3, vocab_size=400),
    "SentencePiece's": lambda: SubwordTokenizer(sentencepiece_style().to_str(), name="file", end_of_text="</s>"),
    "WordPiece": word_piece,
    "GPT-2's": lambda: byte_level(add_prefix_space=False),
    "with a space before the text": lambda: byte_level(add_prefix_space=True),
    "without words": lambda: byte_level(add_prefix_space=False, use_regex=False),
    "with added spaces": with_added_spaces,
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("size", [60, 97])
def test_the_pieces_of_a_text_have_the_ids_of_the_whole(name, size, monkeypatch):
    tokenizer = TOKENIZERS[name]()
    whole = {kind: encode_with_begins(tokenizer, [text])[0] for kind, text in TEXTS.items()}
    monkeypatch.setattr(pieces, "PIECE", size)
    monkeypatch.setattr(pieces, "_CONTEXT", 20)
    for kind, text in TEXTS.items():
        ids, begins = zip(*encode_pieces(tokenizer, text), strict=True) if text else ((), ())
        empty = np.zeros(0, dtype=np.int64)
        np.testing.assert_array_equal(np.concatenate([empty, *ids]), whole[kind][0], err_msg=kind)
        np.testing.assert_array_equal(np.concatenate([empty, *begins]), whole[kind][1], err_msg=kind)
        assert kind != "words" or len(ids) > 5 or name == "without words"


def test_a_word_of_any_length_is_read_in_bounded_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 50)
    monkeypatch.setattr(pieces, "LONGEST_PIECE", 200)
    monkeypatch.setattr(pieces, "_CONTEXT", 10)
    tokenizer, text = train_bpe(["aaaa"] * 3, vocab_size=260), "é" + "a" * 3000 + " b"
    found = list(tokenizer.encode_pieces(text))
    assert max(len(ids) for ids, _ in found) <= 300
    assert tokenizer.decode(np.concatenate([ids for ids, _ in found]).tolist()) == text
    begins = np.concatenate([begins for _, begins in found])
    assert (np.diff(begins) >= 0).all()
    assert begins[-1] == len(text.encode()) - len(tokenizer.token_bytes(int(found[-1][0][-1])))


def test_what_cannot_be_read_is_told_with_its_place_in_the_whole_text(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 8)
    with pytest.raises(ValueError, match=r"has 'x' at 17"):
        list(encode_pieces(NucleotideTokenizer(), "ACGTN" * 3 + "ACx"))
    with pytest.raises(UnicodeEncodeError) as found:
        list(pieces.utf8_pieces("a" * 20 + "\ud800"))
    assert found.value.start == 20
