"""Which columns of a call are real, where they stand, and what a cache says of those before them."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from retentive.huggingface.cache import StateCache
from retentive.shapes import TokenMask, Tokens


def one_cache(cache: object, past_key_values: object) -> StateCache | None:
    """Return the cache, whichever of its two names it was given by.

    Raises:
        ValueError: If it was given by both, or is no `StateCache`.
    """
    if cache is not None and past_key_values is not None:
        raise ValueError(
            "cache and past_key_values are two names of one argument, so only one must be given, but both are."
        )
    name, given = ("cache", cache) if past_key_values is None else ("past_key_values", past_key_values)
    if given is None or isinstance(given, StateCache):
        return given
    raise ValueError(
        f"{name} must be a StateCache, but is a {type(given).__name__}; start with none, or with StateCache(state)."
    )


def real_columns(
    attention_mask: Shaped[Tensor, "batch longer"] | None, cache: StateCache | None, batch: int, time: int
) -> TokenMask | None:
    """Return which of the columns of this call are real; None where all are, which takes the faster path.

    Raises:
        ValueError: If the mask does not fit, is one that is added to scores, or says of columns that the cache has read
            what it did not say then.
    """
    if attention_mask is None:
        return None
    seen = 0 if cache is None else cache.layer.seen
    shape = tuple(attention_mask.shape)
    if attention_mask.ndim != 2 or shape[0] != batch or shape[1] not in (time, seen + time):
        whole = f", or ({batch}, {seen + time}) with the columns that the cache has read" if seen else ""
        raise ValueError(f"attention_mask must be (batch, time), ({batch}, {time}){whole}, but has shape {shape}.")
    mask = attention_mask != 0
    if not torch.compiler.is_compiling():
        if attention_mask.is_floating_point() and bool((attention_mask < 0).any()):
            raise ValueError(
                "attention_mask must be 1 at real columns and 0 at padding, but has numbers below 0, as a mask that is "
                "added to scores has; give the tokenizer's."
            )
        if cache is not None and shape[1] > time:
            _check_columns_before(mask[:, :-time], cache)
        mask = mask[:, -time:]
        # A compiler that traces cannot look at values, and takes the mask as it is.
        return None if bool(mask.all()) else mask
    return mask[:, -time:]


def without_pads(
    config: Any, input_ids: Tokens | None, mask: TokenMask | None
) -> tuple[TokenMask | None, Tokens | None]:
    """Mask a pad token that the model has no row for, and put an id that it has in its place."""
    pad = getattr(config, "pad_token_id", None)
    if input_ids is None or pad is None or pad < config.vocab_size:
        return mask, input_ids
    real = input_ids != pad
    mask = real if mask is None else mask & real
    return mask, input_ids.masked_fill(~real, 0)


def _check_columns_before(mask: TokenMask, cache: StateCache) -> None:
    read = cache.layer.mask
    if bool(mask.all()) if read is None else torch.equal(mask, read.to(mask.device)):
        return
    differs = ~mask if read is None else mask != read.to(mask.device)
    row, column = differs.nonzero()[0].tolist()
    then, now = ("token", "padding") if not mask[row, column] else ("padding", "token")
    raise ValueError(
        f"attention_mask must say of columns that the cache has read what it said when they were read, but column "
        f"{column} of row {row} was read as a {then} and is a {now} now; give the mask that was given then, or that of "
        "the new columns alone. generate() makes a mask from pad_token_id where it is given none."
    )


def check_after_cache(cache: StateCache, attention_mask: Tensor | None, widths: Sequence[int]) -> None:
    """Check that ``generate`` is given columns after those that the cache has read, and what it has read before them.

    Args:
        cache: Given by the user.
        attention_mask: Given by the user.
        widths: How many columns the ids, the mask or what stands in for them have.

    Raises:
        ValueError: If there is no column after them, or the mask tells of another padding.
    """
    seen, columns = cache.layer.seen, max(widths, default=0)
    if widths and seen >= columns:
        raise ValueError(
            f"input_ids must hold at least one token after the {seen} columns that the cache has read, but hold "
            f"{columns} in all; give all ids from the first on, or StateCache(cache.state), which takes all ids that "
            "it is given as new."
        )
    if attention_mask is not None:
        _check_columns_before(attention_mask[:, :seen] != 0, cache)


def check_ends_with_tokens(input_ids: Tensor | None, options: dict[str, Any]) -> None:
    """Check that no row of a prompt ends with padding, after which transformers' ``generate`` takes the next token.

    Args:
        input_ids: Of the call.
        options: Its other arguments, with the ``generation_config`` that says what they leave out.

    Raises:
        ValueError: If one does.
    """
    mask: Any = options.get("attention_mask")
    if mask is None and input_ids is not None:  # as transformers makes one
        pad, ends = (_said(options, name) for name in ("pad_token_id", "eos_token_id"))
        if isinstance(pad, int) and pad not in (ends if isinstance(ends, list | tuple) else [ends]):
            mask = input_ids != pad
    if not isinstance(mask, Tensor) or mask.ndim != 2 or not mask.shape[1]:
        return
    padded = (mask[:, -1] == 0).nonzero()
    if len(padded):
        raise ValueError(
            f"every row of a prompt must end with a token, but row {int(padded[0])} ends with padding: pad at the left "
            "(tokenizer.padding_side = 'left'). Where no attention_mask is given, pad_token_id says what padding is."
        )


def _said(options: dict[str, Any], name: str) -> Any:
    given = options.get(name)
    return getattr(options.get("generation_config"), name, None) if given is None else given
