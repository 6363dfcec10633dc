"""Text from a stream of tokens: tokens in, whole characters out."""

import codecs
from collections.abc import Mapping

from retentive.errors import DamagedFileError
from retentive.text.tokenizer import Tokenizer, bytes_of_token

PENDING = "pending_bytes"
"""Name of a state's metadata that holds the bytes of an unfinished character; see `TextStream.metadata`."""


class TextStream:
    """Turn tokens into text one by one. A token may end inside a character, which then waits for the next one.

    The bytes that wait belong to the session, as its state does. To go on tomorrow, save them with it::

        save_state(tokens.state, path, model, metadata=text.metadata)
        text = TextStream(tokenizer, metadata=read_state_metadata(path))
    """

    def __init__(self, tokenizer: Tokenizer, metadata: Mapping[str, str] | None = None) -> None:
        """Begin with nothing pending, or with what another stream left in ``metadata``.

        Raises:
            DamagedFileError: If the pending bytes in it are no bytes that wait for the rest of a character.
        """
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
        return self._decoder.decode(bytes_of_token(self._tokenizer, token))

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
