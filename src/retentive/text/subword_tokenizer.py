"""Tokenizers with a learned vocabulary, through the ``tokenizers`` library: our own BPE, or any ``tokenizer.json``."""

import hashlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from retentive.errors import DamagedFileError
from retentive.files import write_atomically
from retentive.text.as_transformers import read_as_transformers
from retentive.text.byte_tokenizer import check_ids, utf8
from retentive.text.companions import Companions
from retentive.text.pieces import PARTED_AT_SPACES, encode_in_pieces, parted_long_words
from retentive.text.token_bytes import adds_prefix_space, bytes_of_tokens
from retentive.text.tokenizer import (
    PAD,
    TOKENIZER_FILE,
    Begins,
    TokenIds,
    character_bytes,
    read_text,
    read_tokenizer_json,
    save_description,
    save_for_transformers,
)
from retentive.text.written_bytes import written_bytes

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
# Names of the token that ends a document in published vocabularies.
_USUAL_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "[SEP]", "<EOT>")


class SubwordTokenizer:
    """A ``tokenizer.json``, used without its special tokens around a text, its truncation and its padding.

    Args:
        description: Content of the ``tokenizer.json``.
        name: ``bpe`` for one that `train_bpe` learned, ``file`` for one of another library.
        end_of_text: The token that ends a document.
        begin_of_text: The token after which a document is read; None is the one that ends it.
        companions: What another library keeps beside its file.

    Raises:
        ImportError: If the ``tokenizers`` library is not installed.
        DamagedFileError: If the description is invalid.
        ValueError: If the vocabulary has no such token.
    """

    def __init__(
        self,
        description: str,
        *,
        name: str,
        end_of_text: str,
        begin_of_text: str | None = None,
        companions: Companions | None = None,
    ) -> None:
        self.name = name
        self._description = description
        self._tokenizer = _parse(description)
        self._companions = Companions() if companions is None else companions
        self._end_of_text_string = end_of_text
        self._begin_of_text_string = end_of_text if begin_of_text is None else begin_of_text
        self.end_of_text = self._id_of("end_of_text", end_of_text)
        self.begin_of_text = self._id_of("begin_of_text", self._begin_of_text_string)
        # Ids may have gaps; a model needs a row for every id up to the largest.
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        name: str,
        end_of_text: str,
        begin_of_text: str | None = None,
        companions: Companions | None = None,
    ) -> "SubwordTokenizer":
        """Read a ``tokenizer.json``; errors name the file."""
        description = read_text(path)
        try:
            return cls(
                description, name=name, end_of_text=end_of_text, begin_of_text=begin_of_text, companions=companions
            )
        except DamagedFileError as error:
            raise DamagedFileError(f"{path}: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the description: the library's own pickle loses the setting that special tokens in text stay text."""
        strings = self._end_of_text_string, self._begin_of_text_string
        return _restore, (self._description, self.name, *strings, self._companions)

    def _id_of(self, role: str, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            known = ", ".join(map(repr, _special_tokens(self._tokenizer))) or "none"
            raise ValueError(f"{role} must be in the vocabulary, but is {token!r} (special tokens: {known}).")
        return found

    def encode(self, text: str) -> list[int]:
        """Token ids of a text.

        Raises:
            ValueError: If the text has half a surrogate pair, or if this vocabulary turns some text of it into
                end-of-text (unigram vocabularies with ``</s>`` among their pieces do).
        """
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of many texts, on all cores."""
        for text in texts:
            utf8(text)
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._checked(np.asarray(one.ids, dtype=np.uint32)) for one in encoded]

    def encode_with_begins(self, texts: Sequence[str]) -> list[tuple[TokenIds, Begins]]:
        """Token ids of many texts, with the byte of the text at which each token begins.

        A token that begins inside a character, as those of a byte-level vocabulary may, counts from the character.
        """
        for text in texts:
            utf8(text)
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        found: list[tuple[TokenIds, Begins]] = []
        for one, text in zip(encoded, texts, strict=True):
            characters = np.array([begin for begin, _ in one.offsets], dtype=np.int64)
            begins = np.maximum.accumulate(character_bytes(text)[characters]) if len(characters) else characters
            found.append((self._checked(np.asarray(one.ids, dtype=np.uint32)), begins))
        return found

    def encode_pieces(self, text: str) -> Iterator[tuple[TokenIds, Begins]]:
        """What `encode_with_begins` gives for a text, in pieces; see `encode_in_pieces`."""

        def encode(part: str) -> Any:
            utf8(part)
            return self._tokenizer.encode(part, add_special_tokens=False)

        for ids, begins in encode_in_pieces(encode, text, parted_at_spaces=self._parted_at_spaces):
            yield self._checked(ids), begins

    @cached_property
    def _parted_at_spaces(self) -> bool:
        """Whether no token has a space after something else."""
        return not any(map(PARTED_AT_SPACES.search, self._tokenizer.get_vocab(with_added_tokens=True)))

    def _checked(self, ids: TokenIds) -> TokenIds:
        if (ids == self.end_of_text).any():
            message = f"text holds {self._end_of_text_string!r}, which this tokenizer turns into its end-of-text "
            raise ValueError(message + f"id {self.end_of_text}: remove it from the text, or use another tokenizer.")
        return ids

    def encode_prompt(self, text: str, *, tags: bool = False, around: bool = True) -> list[int]:
        """Token ids of a text with what stands around it; see `retentive.text.tokenizer.encode_prompt`.

        Raises:
            ValueError: As `encode`.
        """
        if self.name == "bpe":
            return [*((self.end_of_text,) if around else ()), *self.encode(text)]
        if tags and not self._companions.splits_special_tokens:
            utf8(text)
            return self._with_tags.encode(text, add_special_tokens=around).ids
        bare = self.encode(text)
        return self._tokenizer.encode(text, add_special_tokens=True).ids if around else bare

    @property
    def begin_string(self) -> str:
        """How the token after which a document is read is written."""
        return self._begin_of_text_string

    @cached_property
    def _with_tags(self) -> "tokenizers.Tokenizer":
        """The same vocabulary, where the strings of special tokens in a text are these tokens."""
        tokenizer = _parse(self._description)
        tokenizer.encode_special_tokens = False
        return tokenizer

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Tokens that stand for no text, such as an end of text, by how they are written."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if token.special}

    @cached_property
    def known_ids(self) -> frozenset[int]:
        """Ids that stand for a token; a vocabulary may have gaps."""
        return frozenset(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, by the tokenizer's own decoder; special tokens become nothing.

        Raises:
            ValueError: If an id is not in the vocabulary.
        """
        check_ids(ids, self.vocab_size)
        kept = [token for token in ids if token != self.end_of_text]
        return self._tokenizer.decode(kept, skip_special_tokens=True)

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Texts of many rows, as `decode` gives each, on all cores."""
        kept = [[token for token in row if token != self.end_of_text] for row in rows]
        return self._tokenizer.decode_batch(kept, skip_special_tokens=True)

    def token_bytes(self, token: int) -> bytes:
        """Bytes of one token; see `bytes_of_tokens` for what is exact and what is refused."""
        check_ids([token], self.vocab_size)
        return b"" if token == self.end_of_text else self._bytes_of_tokens.get(token, b"")

    def written_bytes(self, token: int) -> bytes:
        """What `decode` writes for one token after others; see `written_bytes` for what is refused."""
        check_ids([token], self.vocab_size)
        return self._written_bytes.get(token, b"")

    @cached_property
    def adds_prefix_space(self) -> bool:
        """Whether the first token of a text may have a space that is not in the text."""
        return adds_prefix_space(json.loads(self._description))

    def fingerprint(self) -> str:
        """SHA-256 of the description, whatever its white space, and of the ids that end and begin a document."""
        canonical = json.dumps(json.loads(self._description), sort_keys=True, separators=(",", ":"))
        begin = "" if self.begin_of_text == self.end_of_text else f"{self.begin_of_text} "
        return hashlib.sha256(f"{self.end_of_text} {begin}{canonical}".encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the ``tokenizer.json`` and the description of how it is used."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / TOKENIZER_FILE, self._description.encode("utf-8"))
        if self.name == "bpe":
            pad = self._end_of_text_string if self.pad == self.end_of_text else PAD
            save_for_transformers(folder, self._end_of_text_string, pad)
            save_description(folder, kind=self.name, end_of_text=self._end_of_text_string)
            return
        begin, end = self._begin_of_text_string, self._end_of_text_string
        self._companions.write(folder, begin=begin, end=end, pad=self._pad_string)
        save_description(folder, kind=self.name, end_of_text=end, begin_of_text=begin)

    @cached_property
    def pad(self) -> int:
        """The id that fills up rows of a batch for other libraries.

        Of a BPE of earlier versions it is end-of-text. A vocabulary from elsewhere without a pad, or with one that ends
        documents too, gets one after its last id, which transformers adds to it.
        """
        if self.name == "bpe":
            found = self._tokenizer.token_to_id(PAD)
            return self.end_of_text if found is None else found
        grown = _parse(self._description)
        grown.add_special_tokens([self._pad_string])
        return cast("int", grown.token_to_id(self._pad_string))

    @property
    def _pad_string(self) -> str:
        return self._companions.pad or PAD

    @cached_property
    def _written_bytes(self) -> dict[int, bytes]:
        return written_bytes(json.loads(self._description), self._tokenizer) | {self.end_of_text: b""}

    @cached_property
    def _bytes_of_tokens(self) -> dict[int, bytes]:
        return bytes_of_tokens(json.loads(self._description), self._tokenizer)


def train_bpe(texts: Iterable[str], *, vocab_size: int) -> SubwordTokenizer:
    """Learn a byte-level BPE vocabulary (Sennrich et al. 2016; over bytes as in GPT-2) that can write any text.

    Args:
        texts: Read once, one at a time. The same texts in the same order give the same vocabulary. Words, and runs of
            white space, above 256 characters are learned from in pieces of that length.
        vocab_size: Ids in all: end-of-text, 256 bytes, and pairs that are merged. A small corpus may give fewer.

    Raises:
        ValueError: If ``vocab_size`` is below 257, or there is no text.
    """
    if vocab_size < 257:
        raise ValueError(f"vocab_size of a BPE must be at least 257 (256 bytes and end-of-text), but is {vocab_size}.")
    _require_library()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=sys.stderr.isatty(),
    )
    pieces = itertools.chain.from_iterable(map(parted_long_words, texts))
    first = next(pieces, None)
    if first is None:
        raise ValueError(
            "a BPE must learn from some text, but there is none: give more text, or hold out less of it; in prepare, "
            "tokenizer_training_bytes must be above the size of one document."
        )
    tokenizer.train_from_iterator(itertools.chain((first,), pieces), trainer)
    # For other readers of the file: documents begin with end-of-text, as in training, and as `retentive generate` does.
    begin = [(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", pair=f"{END_OF_TEXT} $A $B", special_tokens=begin
    )
    return SubwordTokenizer(_with_pad(json.loads(tokenizer.to_str())), name="bpe", end_of_text=END_OF_TEXT)


def _with_pad(description: dict[str, Any]) -> str:
    """Call the token of the byte 0xFF, which stands in no UTF-8, padding; all ids stay."""
    vocabulary: dict[str, int] = description["model"]["vocab"]
    number = vocabulary["\u00ff"]
    description["model"]["vocab"] = {PAD if token == number else piece: token for piece, token in vocabulary.items()}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    description["added_tokens"].append({"id": number, "content": PAD, "special": True} | flags)
    return json.dumps(description, ensure_ascii=False)


def _with_added(text: str, description: dict[str, Any], companions: Companions) -> str:
    """The ``tokenizer.json`` with the tokens that only the files beside it add, after its last id; the text if none."""
    tokenizer = _parse(json.dumps(description))
    lacking = [token for token in companions.added_tokens if tokenizer.token_to_id(token["content"]) is None]
    if not lacking:
        return text
    from tokenizers import AddedToken

    for token in lacking:
        tokenizer.add_tokens([AddedToken(**token)])
    return tokenizer.to_str()


def open_tokenizer_file(path: Path, *, end_of_text: str | None = None) -> SubwordTokenizer:
    """Open a ``tokenizer.json`` of another library; see `load_tokenizer`."""
    companions = Companions.read(path.parent)
    description = _with_added(read_text(path), read_tokenizer_json(path), companions)
    tokenizer = _parse(description)
    roles: Mapping[str, str | None] = {}
    if path.name == TOKENIZER_FILE and (reading := read_as_transformers(path.parent, description, companions.settings)):
        description, roles = reading.description, reading.roles
        companions = companions.of_class(reading.class_name, reading.padding_side)
        tokenizer = _parse(description)
    if end_of_text is None:
        end_of_text = companions.token("eos_token") or roles.get("eos_token")
    if end_of_text is None:
        known = [name for name in _USUAL_ENDS if tokenizer.token_to_id(name) is not None]
        if len(known) != 1:
            candidates = ", ".join(map(repr, known or _special_tokens(tokenizer))) or "it has no special tokens"
            message = f"end_of_text must name the token of {path} that ends a document ({candidates})."
            raise ValueError(message)
        end_of_text = known[0]
    begin = companions.token("bos_token") or roles.get("bos_token")
    if begin is None and not companions.names("bos_token"):
        around = tokenizer.encode("", add_special_tokens=True).tokens
        begin = around[0] if around else None
    if begin is not None and tokenizer.token_to_id(begin) is None:
        begin = None
    return SubwordTokenizer(
        description, name="file", end_of_text=end_of_text, begin_of_text=begin, companions=companions
    )


def _restore(
    description: str, name: str, end_of_text: str, begin_of_text: str, companions: Companions
) -> SubwordTokenizer:
    return SubwordTokenizer(
        description, name=name, end_of_text=end_of_text, begin_of_text=begin_of_text, companions=companions
    )


def _parse(description: str) -> "tokenizers.Tokenizer":
    _require_library()
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(description)
    except Exception as error:  # the library raises plain Exception
        raise DamagedFileError(f"not a tokenizer.json that can be read ({error}): copy it again.") from error
    tokenizer.encode_special_tokens = True
    # Many published files truncate every text to the length of their model, silently.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _special_tokens(tokenizer: "tokenizers.Tokenizer") -> list[str]:
    return [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]


def _require_library() -> None:
    if find_spec("tokenizers") is None:
        message = "this tokenizer needs the package tokenizers: pip install 'retentive[train]' (or use tokenizer=bytes)"
        raise ImportError(message)
