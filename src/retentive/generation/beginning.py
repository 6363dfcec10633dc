"""What a generation begins with, checked: the tokens to read first, and the state that they are read after."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from retentive.checkpoints.states import GenerationState, TokenCounts, no_counts
from retentive.config_types import check_kind
from retentive.generation.prefixes import PrefixReader
from retentive.generation.prompt import Prompt, PromptBatch, align, read_prompt
from retentive.generation.sampling import Sampling, begin_counts
from retentive.models.protocol import LanguageModel
from retentive.models.state_values import check_state_values
from retentive.state import ModelState, RecurrentState


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a generation begins with, on the model's device.

    Attributes:
        first: The first tokens of each row.
        state: The model's state before them; None begins new texts.
        counts: Which tokens the rows have with the first ones; None where nobody counts them.
        has_begun: Whether the state has read the begin of the same prompts, and not another text.
    """

    first: PromptBatch
    state: ModelState | None
    counts: TokenCounts | None
    has_begun: bool = False


def begin(
    model: LanguageModel,
    prompt: Prompt | None,
    state: ModelState | GenerationState | None,
    max_new_tokens: int,
    sampling: Sampling,
) -> Beginning:
    """Check what a generation begins with.

    Args:
        model: Reads them.
        prompt: As given to `generate`.
        state: See there.
        max_new_tokens: See there; a model with learned positions must have room for them.
        sampling: Whether it has penalties tells whether tokens are counted.

    Raises:
        TypeError: If the prompt is not token ids, or the state is none.
        ValueError: If the prompt is empty, rows of state and prompt differ, or there is no room.
        MismatchError: If the state has numbers of another kind.
        DivergedError: If it has NaN.
    """
    check_kind("state", state, RecurrentState, type(None))
    sampling.check_vocab(model.vocab_size)
    device = model.device
    start = None if state is None else state.to(device)
    if start is not None:
        check_state_values(start, thorough=True)
    batch = _first_tokens(read_prompt(prompt, model.vocab_size), start, device)
    carried = start.model if isinstance(start, GenerationState) else start
    if model.longest_text is not None:
        read = 0 if carried is None else int(carried.position.max())
        _check_room(read + batch.longest + max_new_tokens - 1, model.longest_text)
    counts = start.counts if isinstance(start, GenerationState) else None
    if counts is None and sampling.has_penalties:
        counts = no_counts(len(batch.tokens), model.vocab_size, device)
    if counts is not None:
        counts = begin_counts(counts, batch.tokens, batch.mask)
    return Beginning(batch, carried, counts)


def read_prefixes(beginning: Beginning, reader: PrefixReader) -> Beginning:
    """Read all tokens of new texts but the last of each, after what a prefix cache knows of them.

    Raises:
        ValueError: If the texts go on from a state.
    """
    if beginning.state is not None:
        raise ValueError(
            "state must be None with a prefix_cache, which knows texts from their begin on: a state needs no prefix."
        )
    first = beginning.first
    rows: list[list[int]] = first.tokens.tolist()
    lengths = [first.longest] * len(rows) if first.mask is None else first.mask.sum(1).tolist()
    texts = [row[first.longest - length :] for row, length in zip(rows, lengths, strict=True)]
    state = reader.states_after([text[:-1] for text in texts])
    return replace(beginning, first=PromptBatch(tokens=first.tokens[:, -1:], mask=None), state=state, has_begun=True)


def _first_tokens(rows: list[Tensor], state: ModelState | GenerationState | None, device: torch.device) -> PromptBatch:
    """The tokens that are read before the first is chosen: the state's unread ones, then the prompt."""
    if isinstance(state, GenerationState):
        if not rows:
            return PromptBatch(tokens=state.unread[:, None], mask=None)
        _check_rows(len(rows), state.batch_size)
        unread = state.unread.cpu()
        return align([torch.cat((unread[index : index + 1], row)) for index, row in enumerate(rows)], device)
    empty = [index for index, row in enumerate(rows) if not len(row)]
    if not rows or empty:
        which = f", but row {empty[0]} is empty" if empty else ", but there is none"
        raise ValueError(
            f"prompt must hold at least one token for each row{which}; begin with the tokenizer's end_of_text to start "
            "a new text, or pass the state of an earlier generation, which needs no prompt."
        )
    if state is not None:
        _check_rows(len(rows), state.batch_size)
    return align(rows, device)


def _check_rows(prompts: int, states: int) -> None:
    if prompts != states:
        raise ValueError(
            f"state must have one row for each prompt, {prompts}, but has {states}; state.select(rows) keeps or "
            "repeats rows."
        )


def _check_room(needed: int, max_positions: int) -> None:
    if needed > max_positions:
        raise ValueError(
            f"prompt and max_new_tokens must fit into max_positions = {max_positions} tokens, but together with the "
            f"state they need {needed}; ask for fewer tokens."
        )
