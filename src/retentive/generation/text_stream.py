"""Text from a stream of tokens: tokens in, whole characters out."""

import codecs

from retentive.text.tokenizer import Tokenizer


class TextStream:
    """Turn tokens into text one by one. A token may end inside a character, which then waits for the next one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Begin with nothing pending."""
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that this token completes."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """What is left: U+FFFD for a character that was not completed."""
        return self._decoder.decode(b"", final=True)
