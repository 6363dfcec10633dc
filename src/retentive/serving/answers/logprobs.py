"""Log-probabilities of tokens in the shapes of the API."""

import codecs

from retentive.generation import RequestStep
from retentive.serving.wire.chat import ChoiceLogprobs, TokenLogprob, TopLogprob
from retentive.serving.wire.completions import CompletionLogprobs
from retentive.text.tokenizer import Tokenizer, written_bytes


def of_token(step: RequestStep, tokenizer: Tokenizer) -> TokenLogprob | None:
    """Those of one step; None where they were not asked for."""
    if step.logprobs is None or step.token is None:
        return None
    chosen = _likely(tokenizer, step.token, step.logprobs.logprob)
    top = [_likely(tokenizer, token, logprob) for token, logprob in step.logprobs.top]
    return TokenLogprob(token=chosen.token, bytes=chosen.bytes, logprob=chosen.logprob, top_logprobs=top)


def of_message(tokens: list[TokenLogprob]) -> ChoiceLogprobs | None:
    """Those of a message; None where they were not asked for."""
    return ChoiceLogprobs(content=tokens) if tokens else None


class TextOffsets:
    """Where the tokens of one text begin in it, in characters: a part of a character begins where that does."""

    def __init__(self) -> None:
        """Begin at the first token."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = 0

    def of(self, token: TokenLogprob) -> int:
        """Where the next token begins."""
        begin = self._length
        self._length += len(self._decoder.decode(bytes(token.bytes)))
        return begin


def of_completion(tokens: list[TokenLogprob], offsets: TextOffsets) -> CompletionLogprobs | None:
    """The older shape: a list each.

    Args:
        tokens: Of a text, or of a part of it.
        offsets: Of this text, which has seen the tokens before them.
    """
    if not tokens:
        return None
    return CompletionLogprobs(
        tokens=[_name(token) for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        top_logprobs=[{_name(likely): likely.logprob for likely in token.top_logprobs} for token in tokens],
        text_offset=[offsets.of(token) for token in tokens],
    )


def _name(token: TopLogprob | TokenLogprob) -> str:
    """The text of a token; of a part of a character its bytes as OpenAI's API writes them, for many have no text."""
    raw = bytes(token.bytes)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _likely(tokenizer: Tokenizer, token: int, logprob: float) -> TopLogprob:
    # JSON has no infinity: a token that cannot be has the smallest number, as OpenAI's API says it.
    raw = written_bytes(tokenizer, token)
    return TopLogprob(token=raw.decode("utf-8", "replace"), bytes=list(raw), logprob=max(logprob, -9999.0))
