"""Reading vectors in place of token ids, such as those of a learned prompt."""

from typing import Any

import torch
from torch import Tensor

from retentive.layers.embedding import Embedding
from retentive.models.base import CalledModel, DecoderModel
from retentive.models.calls import check_call
from retentive.models.protocol import ModelOutput
from retentive.ops.lean.plain import check_adds_nothing_to_calls
from retentive.ops.precision import autocasts
from retentive.private_apis import has_own_hooks, is_offloaded
from retentive.shapes import Hidden
from retentive.state import ModelState


def read_embedded(
    model: DecoderModel, embedded: Hidden, state: ModelState | None, call: dict[str, Any], beside: dict[str, Any]
) -> ModelOutput:
    """Return what a call of the model gives whose tokens have these rows of the token table.

    Args:
        model: Without its own table.
        embedded: Rows of the token table, or what stands in for them.
        state: Where an earlier call stopped; None starts new sequences.
        call: ``mask``, ``starts`` and ``logits_to_keep`` of the model's call.
        beside: What the family takes beside tokens.

    Raises:
        ValueError: If the model remembers token ids or does more in its call, or if shapes or dtypes do not fit.
        MismatchError: If the state is of another model.
        DivergedError: If it has NaN.
    """
    _check_model(model, beside)
    _check_vectors(model, embedded)
    stand_in = torch.zeros(embedded.shape[:2], dtype=torch.long, device=embedded.device)
    check_call(stand_in, state, None, call["mask"], call["starts"], call["logits_to_keep"])
    if state is not None:
        model.check_state(state)
    decoder = model.decoder
    position = None if state is None else state.position
    layout = decoder.layout(embedded, position, mask=call["mask"], starts=call["starts"])
    hidden = decoder.embedding_dropout(decoder.embedding.place(embedded, layout.positions))
    hidden, following = decoder(hidden, state, layout)
    return model.read_out(hidden, following, None, call["logits_to_keep"])


def _check_model(model: DecoderModel, beside: dict[str, Any]) -> None:
    if not model.is_plain_decoder or beside:
        raise ValueError(
            f"inputs_embeds must be None for a {model.config.family}, whose state remembers token ids; give input_ids."
        )
    if is_offloaded(model):  # the hook loads weights, which each part does by itself
        return
    cure = "give input_ids, or put it on decoder.embedding_dropout"
    check_adds_nothing_to_calls("model.decoder.embedding", model.decoder.embedding, Embedding, cure)
    if has_own_hooks(model) or "forward" in vars(model) or type(model).forward is not CalledModel.forward:
        raise ValueError(
            "inputs_embeds must be None where a hook, a patched forward or a subclass acts in calls of the model "
            "inside, which take token ids; give input_ids, or put the hook on this model or on a part of that one."
        )


def _check_vectors(model: DecoderModel, embedded: Tensor) -> None:
    size, dtype = model.decoder.config.embedding.hidden_size, model.decoder.dtype
    if embedded.ndim != 3 or embedded.shape[2] != size:
        raise ValueError(
            f"inputs_embeds must be (batch, time, hidden_size = {size}), but have shape {tuple(embedded.shape)}."
        )
    if embedded.dtype != dtype and not (embedded.is_floating_point() and autocasts(embedded.device)):
        raise ValueError(
            f"inputs_embeds must have the dtype of the model's table, {dtype}, but have {embedded.dtype}; call "
            f"inputs_embeds.to({dtype})."
        )
