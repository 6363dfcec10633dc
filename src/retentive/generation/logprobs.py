"""How likely a model found the tokens that were chosen, and which others it found likely."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retentive.config_types import check_count
from retentive.text.tokenizer import Tokenizer, written_bytes


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities in nats, by the model's own softmax: before temperature, penalties and biases.

    Attributes:
        logprob: Of the token that was chosen.
        top: The likeliest tokens and theirs, from the largest down; as many as were asked for.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def token_logprobs(logits: Float[Tensor, "rows vocab"], tokens: Int[Tensor, "rows"], top: int) -> list[TokenLogprobs]:
    """`TokenLogprobs` of each row.

    Args:
        logits: Of the next token.
        tokens: The token of each row.
        top: How many of the likeliest; at most the whole vocabulary.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    chosen: list[float] = wide.gather(-1, tokens[:, None]).squeeze(-1).tolist()
    if not top:
        return [TokenLogprobs(value) for value in chosen]
    likeliest = wide.topk(min(top, wide.shape[-1]))
    ids: list[list[int]] = likeliest.indices.tolist()
    values: list[list[float]] = likeliest.values.tolist()
    return [
        TokenLogprobs(value, tuple(zip(row, numbers, strict=True)))
        for value, row, numbers in zip(chosen, ids, values, strict=True)
    ]


def check_logprobs(top: int | None) -> None:
    """Validate how many of the likeliest tokens are told.

    Raises:
        ValueError: If it is no number of tokens.
    """
    if top is not None:
        check_count("logprobs", top, least=0, otherwise="None for none")


def shown(token: int, found: TokenLogprobs, tokenizer: Tokenizer) -> dict[str, Any]:
    """The log-probabilities of a token as JSON; a token that is a part of a character is told by its bytes."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        raw = written_bytes(tokenizer, token)
        return {"id": token, "token": raw.decode("utf-8", "replace"), "bytes": list(raw), "logprob": logprob}

    return {**one(token, found.logprob), "top_logprobs": [one(*likely) for likely in found.top]}
