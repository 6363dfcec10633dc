"""The residual stream of a model, beside its logits or in their place."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from retentive.models.base import DecoderModel
from retentive.models.calls import ModelCall, check_call
from retentive.ops.lean.plain import check_adds_nothing_to_calls
from retentive.shapes import Hidden, TokenMask, Tokens
from retentive.state import ModelState


@contextmanager
def kept_hidden_states(model: DecoderModel, wanted: bool) -> Generator[list[Tensor]]:
    """Collect what each block receives, and what the head reads, during one call of a model.

    Raises:
        ValueError: If the model reads segments, whose columns are not those of the text.
    """
    kept: list[Tensor] = []
    if not wanted:
        yield kept
        return
    if model.recomputes_segments is not None:
        raise ValueError(
            f"output_hidden_states must be False or left out for a {model.config.family}, whose blocks read segments "
            "with memory tokens, but is True."
        )

    def keep_input(_: nn.Module, args: tuple[Any, ...]) -> None:
        kept.append(args[0])

    def keep_output(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        kept.append(output)

    with ExitStack() as hooks:
        for block in model.decoder.blocks:
            hooks.enter_context(block.register_forward_pre_hook(keep_input))
        hooks.enter_context(model.decoder.norm.register_forward_hook(keep_output))
        yield kept


def read_hidden(
    model: DecoderModel, tokens: Tokens, state: ModelState | None, mask: TokenMask | None
) -> tuple[Hidden, ModelState]:
    """Read tokens as a call of the model does, and return what its head reads, and the state.

    Raises:
        ValueError: If the family offers no way to, or the model does more in its call.
    """
    if not model.is_plain_decoder and model.recomputes_segments is None:
        raise ValueError(f"the model must be a decoder or a recurrent memory over one, but is a {model.config.family}.")
    check_adds_nothing_to_calls("model", model, DecoderModel, "put it on this model, or on model.decoder")
    check_call(tokens, state, None, mask, None, None)
    return model.hidden_states(ModelCall(tokens, state, mask=mask))


def last_real(columns: Hidden, mask: TokenMask | None) -> Float[Tensor, "batch hidden"]:
    """Return the last column of each row that is not padding."""
    if mask is None:
        return columns[:, -1]
    places = mask.long().cumsum(1).argmax(1)
    return columns.gather(1, places[:, None, None].expand(-1, 1, columns.shape[2]))[:, 0]
