"""What tokens write one by one is what the tokenizer's own decode writes for all of them."""

import functools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers
from tokenizers import Tokenizer as Library

from retentive.generation.text_stream import TextStream
from retentive.text.subword_tokenizer import SubwordTokenizer
from text.vocabularies import chat_vocabulary

SPACED = decoders.Replace("▁", " ")
DECODERS = {
    "sentencepiece": decoders.Sequence([SPACED, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]),
    "without a strip": decoders.Sequence([SPACED, decoders.ByteFallback(), decoders.Fuse()]),
    "metaspace": decoders.Metaspace(prepend_scheme="always"),
    "metaspace never": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never")]),
    "replaced twice": decoders.Sequence([decoders.Replace(Regex("▁+"), "_"), decoders.Replace("e", "E")]),
    "each stripped": decoders.Sequence([SPACED, decoders.Strip(" ", 1, 0), decoders.ByteFallback()]),
    "wordpiece": decoders.WordPiece(),
    "wordpiece as it is": decoders.WordPiece(prefix="@@", cleanup=False),
    "nested": decoders.Sequence([decoders.Sequence([SPACED]), decoders.Sequence([decoders.Fuse()])]),
    "byte-level": decoders.ByteLevel(),
    "none": None,
}
PIECES = ["a", "▁the", "▁▁", "e▁e", "##s", "@@s", ".", "n't", "do not", "é", "Ġx", "Ã©", "</s", "\n", "猫", "ø"]
ADDED = [
    AddedToken("[think]", lstrip=True, normalized=False),
    AddedToken("▁tool▁", rstrip=True, normalized=False),
    AddedToken("foo bar", single_word=True),
    AddedToken("Ġadded", lstrip=True, rstrip=True),
    AddedToken("a nürmal one", normalized=True),
]
UNIGRAM = models.Unigram([("<unk>", 0.0), *((piece, -1.0) for piece in PIECES)], unk_id=0)


@functools.cache
def tokenizer_of_kind(kind: str) -> SubwordTokenizer:
    return tokenizer_of(DECODERS[kind], unigram=kind == "metaspace")


def tokenizer_of(decoder: decoders.Decoder | None, *, unigram: bool) -> SubwordTokenizer:
    vocabulary = {piece: number for number, piece in enumerate(["<unk>", *PIECES])}
    library = Library(UNIGRAM if unigram else models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    library.normalizer = normalizers.NFKD()  # what is done to a text before it is cut is nothing to decoding
    if decoder is not None:
        library.decoder = decoder
    library.add_special_tokens(["<unk>", "</s>"])
    library.add_tokens(ADDED)
    return SubwordTokenizer(library.to_str(), name="file", end_of_text="</s>")


@pytest.mark.parametrize("kind", DECODERS)
@given(data=st.data())
def test_tokens_write_what_decoding_all_of_them_writes(kind: str, data: st.DataObject):
    tokenizer = tokenizer_of_kind(kind)
    known = sorted(tokenizer.known_ids)
    ids = data.draw(st.lists(st.sampled_from(known), max_size=8))
    first = tokenizer.encode("a")[0]
    stream = TextStream(tokenizer)
    written = "".join(map(stream.push, ids)) + stream.finish()
    assert tokenizer.decode([first]) + written == tokenizer.decode([first, *ids])


@pytest.mark.parametrize(
    ("decoder", "reason"),
    [
        (decoders.BPEDecoder(), "'BPEDecoder' writes for a token depends on the next one"),
        (decoders.CTC(), "'CTC' writes for a token depends on the next one"),
        (decoders.Strip(" ", 0, 1), "'Strip' writes for a token depends on the next one"),
        (decoders.Sequence([decoders.Fuse(), decoders.Replace("  ", " ")]), "'Replace' reads the whole text at once"),
        (decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]), "'Strip' reads the whole text at once"),
    ],
)
def test_decoders_that_need_the_tokens_beside_are_refused(decoder: decoders.Decoder, reason: str):
    with pytest.raises(ValueError, match=f"cannot become text one by one: .*{reason}"):
        TextStream(tokenizer_of(decoder, unigram=False))


def test_an_added_token_writes_its_characters_as_the_decoder_reads_them():
    library = chat_vocabulary()
    library.add_tokens([AddedToken("ø", normalized=False), AddedToken("<tool>", lstrip=True, normalized=False)])
    tokenizer = SubwordTokenizer(library.to_str(), name="file", end_of_text="<|endoftext|>")
    tool = tokenizer.encode("a  <tool>")[-1]
    assert tokenizer.written_bytes(tool) == tokenizer.token_bytes(tool) == b"<tool>"
    # In a byte-level vocabulary "ø" is how the byte 0xF8 is written, and the decoder cannot tell.
    (added,) = tokenizer.encode("ø")
    assert json.loads(library.to_str())["model"]["vocab"]["ø"] == added
    assert (tokenizer.written_bytes(added), tokenizer.token_bytes(added)) == (b"\xf8", "ø".encode())
