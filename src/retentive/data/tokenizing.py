"""Token ids of documents, those of long ones in a file, so that memory does not grow with a document."""

from pathlib import Path

import numpy as np

from retentive.data.sources.documents import Document
from retentive.data.token_store_writer import some_at_a_time
from retentive.files.growing_array import GrowingArray
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.pieces import PIECE
from retentive.text.subword_tokenizer import SubwordTokenizer
from retentive.text.tokenizer import TokenIds, Tokenizer, encode_batch, encode_pieces, token_byte_lengths


def encode_documents(
    documents: list[Document], tokenizer: Tokenizer, place: Path
) -> list[TokenIds | GrowingArray | str]:
    """Token ids of each document, or the reason why there are none; those of long ones wait in a file."""
    texts = [document.text for document in documents]
    try:
        if len(documents) == 1 and len(texts[0]) > PIECE:
            found = GrowingArray(place, np.uint32)
            for ids, _ in encode_pieces(tokenizer, texts[0]):
                found.append(ids)
            encoded: list[TokenIds | GrowingArray | str] = [found]
        elif any(len(text) > PIECE for text in texts):
            return [one for document in documents for one in encode_documents([document], tokenizer, place)]
        else:
            encoded = [*encode_batch(tokenizer, texts)]
    except ValueError as error:  # one of the texts is at fault: encode them one by one to find it
        if len(documents) == 1:
            return [str(error)]
        return [one for document in documents for one in encode_documents([document], tokenizer, place)]
    no_tokens = "has no tokens: the tokenizer drops all of its text"
    return [no_tokens if isinstance(ids, str) or not ids.shape[0] else ids for ids in encoded]


def spells(ids: TokenIds | GrowingArray, content: bytes, tokenizer: Tokenizer, byte_lengths: np.ndarray) -> bool:
    """Whether the tokens of a text stand for its bytes, and for no others than a space that was put before it."""
    more = sum(int(byte_lengths[part].sum()) for part in some_at_a_time(ids)) - len(content)
    adds_space = isinstance(tokenizer, SubwordTokenizer) and tokenizer.adds_prefix_space
    if more == 0 and adds_space:  # the space may stand in for a byte that was lost
        spelled = (tokenizer.token_bytes(token) for part in some_at_a_time(ids) for token in part.tolist())
        return b"".join(spelled) == content
    return more == 0 or (more == 1 and adds_space)


def known_byte_lengths(tokenizer: Tokenizer) -> np.ndarray | None:
    """Bytes of each token; ``None`` where there is nothing to find out, or the tokenizer cannot tell."""
    if isinstance(tokenizer, ByteTokenizer):
        return None
    try:
        return token_byte_lengths(tokenizer)
    except ValueError:
        return None
