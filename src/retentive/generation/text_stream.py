"""Text from a stream of tokens: tokens in, whole characters out."""

import codecs
from collections.abc import Mapping

from retentive.errors import DamagedFileError
from retentive.text.tokenizer import Tokenizer, written_bytes

PENDING = "pending_bytes"
"""Name of a state's metadata that holds the bytes of an unfinished character; see `TextStream.metadata`."""


class TextStream:
    """Turn tokens into text one by one. A token may end inside a character, which then waits for the next one.

    All of them give the text that decoding them together gives, with two exceptions: the space before a first token
    stays, for text stands before it; and where tokens are no UTF-8, each broken character is one U+FFFD, while some
    tokenizers also give up the whole characters beside it, which were given before.

    The bytes that wait belong to the session, as its state does. To go on tomorrow, save them with it::

        save_state(tokens.state, path, model, metadata=text.metadata)
        text = TextStream(tokenizer, metadata=read_state_metadata(path))
    """

    def __init__(self, tokenizer: Tokenizer, metadata: Mapping[str, str] | None = None) -> None:
        """Begin with nothing pending, or with what another stream left in ``metadata``.

        Raises:
            ValueError: If what one of the tokenizer's tokens writes depends on the tokens beside it.
            DamagedFileError: If the pending bytes in it are no bytes that wait for the rest of a character.
        """
        written_bytes(tokenizer, tokenizer.end_of_text)  # refused here, and not in the middle of a text
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        said = (metadata or {}).get(PENDING, "")
        try:
            waits = not self._decoder.decode(bytes.fromhex(said))
        except ValueError:
            waits = False
        if not waits:
            raise DamagedFileError(
                f"{PENDING} in a state's metadata must be the begin of one character in hexadecimal digits, but is "
                f"{said!r}; save the state again."
            )

    def push(self, token: int) -> str:
        """The characters that this token completes; U+FFFD for an id that the tokenizer does not have."""
        return self._decoder.decode(written_bytes(self._tokenizer, token))

    @property
    def pending(self) -> bytes:
        """The bytes of a character that is not complete yet."""
        return self._decoder.getstate()[0]

    @property
    def metadata(self) -> dict[str, str]:
        """The pending bytes as strings for `save_state`, from which another stream goes on."""
        return {PENDING: self.pending.hex()}

    def finish(self) -> str:
        """What is left: U+FFFD for a character that was not completed."""
        return self._decoder.decode(b"", final=True)
