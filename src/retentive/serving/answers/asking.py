"""From a request's fields to what the engine takes: sampling, ends, and the limits of one request."""

import math
from collections.abc import Sequence

from retentive.checkpoints import GenerationState
from retentive.generation import Request, Sampling
from retentive.serving.errors import ApiError, invalid, too_large
from retentive.serving.service import Service
from retentive.serving.wire.common import SamplingFields
from retentive.state import ModelState

MAX_STOPS = 8
LONGEST_STOP = 256


def check_model(service: Service, name: str) -> None:
    """Refuse a request for another model.

    Raises:
        ApiError: 404.
    """
    if name != service.config.model_name:
        raise ApiError(
            404,
            f"model must be {service.config.model_name!r}, the one that is served, but is {name!r}.",
            code="model_not_found",
            param="model",
        )


def sampling_of(fields: SamplingFields, never: tuple[int, ...], vocab_size: int) -> Sampling:
    """How a request's tokens are chosen. With temperature 0, nothing is drawn, and what only draws changes nothing.

    Raises:
        ApiError: 400, if a value cannot be.
    """
    temperature = 1.0 if fields.temperature is None else fields.temperature
    draws = temperature > 0
    try:
        return Sampling(
            temperature=temperature,
            top_k=fields.top_k if draws else None,
            top_p=fields.top_p if draws and fields.top_p not in (None, 1.0) else None,
            min_p=fields.min_p if draws and fields.min_p else None,
            seed=fields.seed if draws else None,
            presence_penalty=fields.presence_penalty or 0.0,
            frequency_penalty=fields.frequency_penalty or 0.0,
            repetition_penalty=fields.repetition_penalty or 1.0,
            logit_bias=_biases(fields, vocab_size),
            never=never,
        )
    except (ValueError, TypeError) as error:
        raise invalid(str(error)) from error


def _biases(fields: SamplingFields, vocab_size: int) -> tuple[tuple[int, float], ...]:
    biases: list[tuple[int, float]] = []
    for name, bias in (fields.logit_bias or {}).items():
        if not (name.isascii() and name.isdigit() and len(name) < 10 and int(name) < vocab_size):
            raise invalid(f"logit_bias must name token ids from 0 to {vocab_size - 1}, but has {name!r}.", "logit_bias")
        if not -100 <= bias <= 100:
            raise invalid(f"logit_bias must be from -100 to 100, but is {bias} for {name}.", "logit_bias")
        biases.append((int(name), bias))
    return tuple(biases)


def stops_of(fields: SamplingFields) -> tuple[str, ...]:
    """The strings that end a text.

    Raises:
        ApiError: 400, if there are too many, or one is empty or too long.
    """
    given = [fields.stop] if isinstance(fields.stop, str) else fields.stop or []
    if len(given) > MAX_STOPS:
        raise invalid(f"stop must have at most {MAX_STOPS} strings, but has {len(given)}.", "stop")
    for stop in given:
        if not 0 < len(stop) <= LONGEST_STOP:
            raise invalid(f"each stop must have 1 to {LONGEST_STOP} characters, but one has {len(stop)}.", "stop")
    return tuple(given)


def tokens_before(state: ModelState | GenerationState | None) -> int:
    """Tokens that a state has read."""
    if state is None:
        return 0
    return int((state.model if isinstance(state, GenerationState) else state).position[0])


def prompt_size(state: ModelState | GenerationState | None, prompt: Sequence[int]) -> int:
    """Tokens of the whole text before the answer."""
    unread = 1 if isinstance(state, GenerationState) else 0
    return tokens_before(state) + unread + len(prompt)


def _default(service: Service, most: int, read: int) -> int:
    """Tokens to write where a request does not say, after so many that are read."""
    longest = service.model.longest_text or math.inf
    room = longest + 1 - read  # the last token is not read
    return int(max(1, min(most, service.limits.max_new_tokens, room)))


def rows_of(
    service: Service,
    fields: SamplingFields,
    owner: str,
    prompts: Sequence[Sequence[int]],
    *,
    n: int,
    max_tokens: int | None,
    max_tokens_param: str,
    default: int,
    logprobs: int | None,
    state: ModelState | GenerationState | None = None,
) -> list[Request]:
    """The rows of a request: ``n`` for each prompt, each with its own random numbers.

    Raises:
        ApiError: 400 or 413, if it asks for what cannot be, or for more than one request may.
    """
    limits = service.limits
    if max_tokens is None:
        max_tokens = _default(service, default, max(prompt_size(state, prompt) for prompt in prompts))
    if max_tokens > limits.max_new_tokens:
        raise too_large(
            f"{max_tokens_param} must be at most {limits.max_new_tokens} on this server, but is {max_tokens}.",
            max_tokens_param,
        )
    if n * len(prompts) > limits.max_choices:
        raise too_large(
            f"n times the number of prompts must be at most {limits.max_choices} on this server, but is "
            f"{n * len(prompts)}.",
            "n",
        )
    total = sum(map(len, prompts))
    if total > limits.max_prompt_tokens:
        raise too_large(
            f"the prompt must have at most {limits.max_prompt_tokens} tokens on this server, but has {total}; send it "
            "in parts, each after the stored state of the one before."
        )
    sampling = sampling_of(fields, service.words.never, service.model.vocab_size)
    stops = stops_of(fields)
    ends = () if fields.ignore_eos else service.words.ends
    try:
        return [
            Request(
                prompt=prompt,
                max_new_tokens=max_tokens,
                sampling=sampling,
                stop_tokens=ends,
                stop_strings=stops,
                logprobs=logprobs,
                row=row,
                state=state,
                use_prefixes=not fields.no_cache,
                scope=owner,
            )
            for prompt in prompts
            for row in range(n)
        ]
    except (ValueError, TypeError) as error:
        raise invalid(str(error)) from error
