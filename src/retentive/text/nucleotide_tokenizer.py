"""The tokenizer for DNA: one id per base."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from retentive.files import write_atomically
from retentive.text.byte_tokenizer import END_OF_TEXT, check_ids
from retentive.text.pieces import pieces_of
from retentive.text.tokenizer import PAD, TOKENIZER_FILE, Begins, TokenIds, save_description, save_for_transformers

BASES = "ACGTN"


class NucleotideTokenizer:
    """A, C, G, T and N (any base) as ids 0 to 4, and 5 as the end of a sequence.

    Lower case, which marks repeats in many genomes, is read as upper case. All other letters are refused: replace codes
    of two or three bases by N first, if they should count as any base. For ``retentive prepare``, `save` the tokenizer
    and pass its folder as ``tokenizer``.
    """

    name = "nucleotides"
    vocab_size = len(BASES) + 1
    end_of_text = len(BASES)
    # All ids of a model are taken: padding has none, and a model that transformers runs masks it.
    pad = len(BASES) + 1
    complement: ClassVar[tuple[int, ...]] = (3, 2, 1, 0, 4, 5)
    """A pairs with T, C with G; N and the end are their own complements."""

    def encode(self, text: str) -> list[int]:
        """The bases of a sequence.

        Raises:
            ValueError: If a letter is none of A, C, G, T and N.
        """
        return self._ids(text).tolist()

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """The bases of each sequence, as arrays."""
        return [self._ids(text) for text in texts]

    def encode_pieces(self, text: str) -> Iterator[tuple[TokenIds, Begins]]:
        """The bases of a sequence in pieces, with their numbers."""
        place = 0
        for piece in pieces_of(text):
            ids = self._ids(piece, place)
            yield ids, np.arange(place, place + len(ids))
            place += len(ids)

    def _ids(self, text: str, before: int = 0) -> TokenIds:
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        table = np.full(128, len(BASES), dtype=np.uint32)
        for number, base in enumerate(BASES):
            table[[ord(base), ord(base.lower())]] = number
        ids = table[np.minimum(codes, 127)]
        wrong = np.flatnonzero(ids == len(BASES))
        if wrong.size:
            place = int(wrong[0])
            raise ValueError(
                f"a sequence must be of the letters {', '.join(BASES)}, but has {text[place]!r} at {before + place}; "
                "remove what is no base (headers, line breaks), and write N for codes of several bases."
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The letters of bases; the end becomes nothing.

        Raises:
            ValueError: If an id is not in 0 to 5.
        """
        check_ids(ids, self.vocab_size)
        return "".join(BASES[token] for token in ids if token != self.end_of_text)

    def token_bytes(self, token: int) -> bytes:
        """The letter, or nothing for the end."""
        check_ids([token], self.vocab_size)
        return BASES[token : token + 1].encode()

    def fingerprint(self) -> str:
        """The same for every nucleotide tokenizer."""
        return hashlib.sha256(b"retentive nucleotides ACGTN, end 5").hexdigest()

    def save(self, folder: Path) -> None:
        """Write the description of this tokenizer, and an equivalent ``tokenizer.json`` for other libraries."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / TOKENIZER_FILE, (json.dumps(_as_words()) + "\n").encode())
        save_for_transformers(folder, END_OF_TEXT, PAD)
        save_description(folder, kind=self.name)


def _as_words() -> dict[str, object]:
    """The bases as a ``tokenizer.json``: words of one letter, in upper case only."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    ending = {"id": NucleotideTokenizer.end_of_text, "content": END_OF_TEXT, "special": True}
    padding = {"id": NucleotideTokenizer.pad, "content": PAD, "special": True}
    vocab = {base: number for number, base in enumerate(BASES)} | {END_OF_TEXT: len(BASES)}
    letters = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "added_tokens": [ending | flags, padding | flags],
        "pre_tokenizer": letters,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "N"},
    }
