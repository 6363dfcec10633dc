"""One token inside a segment, where no memory is read or written, as nearly all tokens of a generated text."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retentive.layers.memory.associative import AssociativeMemory
from retentive.layers.token_place import SegmentPosition, StepContext, TokenPlace
from retentive.models.decoder import Decoder, blocks_of
from retentive.models.rmt.config import RecurrentMemoryConfig
from retentive.models.rmt.state import RecurrentMemoryState
from retentive.state import RecurrentState


def tokens_inside_segment(config: RecurrentMemoryConfig, state: RecurrentMemoryState) -> int:
    """How many of the next tokens are neither the first nor the last of a segment, at one place in all rows."""
    begun = state.segment.shape[1]
    return 0 if begun == 0 or state.is_ragged or config.bidirectional else config.segment_length - 1 - begun


def step_inside_segment(
    config: RecurrentMemoryConfig,
    decoder: Decoder,
    memories: Sequence[AssociativeMemory],
    tokens: Int[Tensor, "batch"],
    state: RecurrentMemoryState,
    context: StepContext,
) -> tuple[Float[Tensor, "batch vocab"], RecurrentMemoryState]:
    """Read the next token of each row.

    Args:
        config: Of the model.
        decoder: The model's.
        memories: Its associative memories, one a block, or none.
        tokens: Token ids.
        state: Before them.
        context: How the step is run.

    Returns:
        The logits of the tokens after them, and the state.
    """
    # Rotation counts the read memory and what is recalled too, as `SegmentLayoutBuilder` does.
    before = config.carried_tokens + config.xl_length
    where = SegmentPosition(state.segment.shape[1], state.position, config.segment_length, config.carried_tokens)
    place = context.place_at(where, decoder.rotary, decoder.dtype, offset=before)
    hidden = _embed(config, decoder, tokens, state, place)
    layers: list[RecurrentState] = []
    seen: list[Tensor] = []
    for index, block in enumerate(blocks_of(decoder)):
        if memories:
            hidden = hidden + memories[index](hidden[:, None], state.associations[index])[:, 0]
        received = hidden
        hidden, following = block.step(hidden, state.layers[index], place)
        layers.append(following)
        if config.xl_length:
            seen.append(hidden if config.xl_layer_above else received)
    history = state.history
    if config.xl_length:
        history = context.append(history, torch.stack(seen, 1), 2, config.xl_length)[1]
    following = RecurrentMemoryState(
        layers=tuple(layers),
        position=state.position + 1,
        memory=state.memory,
        segment=context.append(state.segment, tokens, 1)[1],
        history=history,
        associations=state.associations,
        config=config,
    )
    return decoder.logits(decoder.norm(hidden)), following


def _embed(
    config: RecurrentMemoryConfig,
    decoder: Decoder,
    tokens: Int[Tensor, "batch"],
    state: RecurrentMemoryState,
    place: TokenPlace,
) -> Float[Tensor, "batch hidden"]:
    """The first block's input; with ``token_shift``, half of the embedding is that of the token before."""
    if not config.token_shift:
        return decoder.embed_token(tokens, place.positions)
    hidden = decoder.embedding(tokens[:, None], place.positions)[:, 0]
    earlier = decoder.embedding(place.context.last(state.segment, 1), place.positions - 1)[:, 0]
    half = hidden.shape[-1] // 2
    return decoder.embedding_dropout(torch.cat((hidden[:, :half], earlier[:, half:]), -1))
