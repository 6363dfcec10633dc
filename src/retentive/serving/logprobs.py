"""Log-probabilities of tokens in the shapes of the API."""

from retentive.generation import RequestStep
from retentive.serving.wire.chat import ChoiceLogprobs, TokenLogprob, TopLogprob
from retentive.serving.wire.completions import CompletionLogprobs
from retentive.text.tokenizer import Tokenizer


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """What a token stands for; U+FFFD for a part of a character."""
    return tokenizer.token_bytes(token).decode("utf-8", "replace")


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


def of_completion(tokens: list[TokenLogprob], begin: int) -> CompletionLogprobs | None:
    """The older shape: a list each.

    Args:
        tokens: Of a text, or of a part of it.
        begin: Characters of the text before the first of them.
    """
    if not tokens:
        return None
    offsets: list[int] = []
    for token in tokens:
        offsets.append(begin)
        begin += len(token.token)
    return CompletionLogprobs(
        tokens=[token.token for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        top_logprobs=[{likely.token: likely.logprob for likely in token.top_logprobs} for token in tokens],
        text_offset=offsets,
    )


def _likely(tokenizer: Tokenizer, token: int, logprob: float) -> TopLogprob:
    # JSON has no infinity: a token that cannot be has the smallest number, as OpenAI's API says it.
    raw = tokenizer.token_bytes(token)
    return TopLogprob(token=raw.decode("utf-8", "replace"), bytes=list(raw), logprob=max(logprob, -9999.0))
