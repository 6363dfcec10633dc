"""What every language model of the library takes and returns."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, get_type_hints, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.layers.token_place import PLAIN, StepContext
from retentive.models.decoder import Decoder, DecoderConfig
from retentive.models.layer_states import check_layers
from retentive.shapes import Hidden, Logits, TokenMask, Tokens
from retentive.state import ModelState, RecurrentState, named_tensors


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What one call of a model returns.

    Attributes:
        logits: Of the next token, for every column or the last ``logits_to_keep``; None if none were asked for.
        state: Goes into the next call.
        loss: Mean over labels that are not -100, in nats; None without labels.
    """

    logits: Logits | None
    state: ModelState
    loss: Float[Tensor, ""] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkedReading:
    """How a model that reads neighbours cuts a text into the chunks that they are found for.

    Attributes:
        chunk_size: Tokens of a chunk.
        chunk_offset: Tokens at the begin of a document that belong to no chunk.
    """

    chunk_size: int
    chunk_offset: int


@runtime_checkable
class FamilyConfig(Protocol):
    """A family's flat config, as a `LanguageModel` needs it."""

    family: ClassVar[str]

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder's parts."""
        ...

    @property
    def chunked_reading(self) -> ChunkedReading | None:
        """The chunks whose neighbours the model reads; None for a model that reads no neighbours."""
        ...


class LanguageModel(nn.Module):
    """A decoder with the library's call: tokens, state and labels in; logits, state and loss out.

    Attributes:
        recomputes_segments: Whether a family that reads segments computes each again in the backward pass; None in
            families that read none.
        is_plain_decoder: Whether the family is a decoder and nothing around one, so that others can be built around it.
    """

    recomputes_segments: bool | None = None
    is_plain_decoder: ClassVar[bool] = True

    def __init__(self, config: FamilyConfig) -> None:
        """Make the decoder that the config describes."""
        super().__init__()
        expected = get_type_hints(type(self)).get("config")
        if isinstance(expected, type) and not getattr(expected, "_is_protocol", False) and type(config) is not expected:
            raise TypeError(
                f"config of a {type(self).__name__} must be a {expected.__name__}, but is a {type(config).__name__}; "
                "retentive.models.registry.build(config) makes the model of any config."
            )
        self.config = config
        self.decoder = Decoder(config.decoder)

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> ModelState:
        """What ``state=None`` means, as a value."""
        return self.decoder.initial_state(batch_size, device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.decoder.embedding.tokens.weight.device

    @property
    def products(self) -> nn.Module:
        """The linear layers of a step, without embedding and head, from which the number of threads is chosen."""
        return self.decoder.blocks

    @property
    def longest_text(self) -> int | None:
        """Longest text in tokens, where positions are learned; None without a limit."""
        return self.config.decoder.embedding.max_positions

    @property
    def state_is_bounded(self) -> bool:
        """Whether the state stops growing, however long a text becomes."""
        return self.config.decoder.state_is_bounded

    @property
    def predicts_next_token(self) -> bool:
        """Whether a token's logits depend on no later token, so that they can predict the next one."""
        return True

    def forward(
        self,
        tokens: Tokens,
        state: ModelState | None = None,
        labels: Tokens | None = None,
        *,
        mask: TokenMask | None = None,
        starts: TokenMask | None = None,
        logits_to_keep: int | None = None,
    ) -> ModelOutput:
        """Read tokens after ``state``. Any split of a sequence into calls gives what one call gives.

        Args:
            tokens: Token ids.
            state: Where an earlier call stopped; None starts new sequences.
            labels: The token that each column should predict (already shifted), -100 where none counts.
            mask: False at padding, anywhere: it is not read, takes no position and does not change the state.
            starts: True at the first token of a document, which reads nothing before it.
            logits_to_keep: Columns from the end whose logits are wanted; None is all, 0 is none. With labels and 0,
                the loss is computed without all logits of a large vocabulary in memory.

        Raises:
            ValueError: If shapes, dtypes or ids do not fit; the message names the argument, the rule and the cure.
        """
        check_call(tokens, state, labels, mask, starts, logits_to_keep)
        if state is not None:
            self.check_state(state)
        layout = self.decoder.layout(tokens, None if state is None else state.position, mask=mask, starts=starts)
        hidden, following = self.decoder(self.decoder.embed(tokens, layout), state, layout)
        return self.read_out(hidden, following, labels, logits_to_keep)

    def check_state(self, state: object) -> None:
        """Refuse a state that is not of a model of this config. Looks at types, shapes and configs.

        Raises:
            MismatchError: If it is not; the message says what differs.
        """
        check_layers(self.decoder.config, self.decoder.dtype, state)

    def step(
        self, tokens: Int[Tensor, "batch"], state: ModelState, context: StepContext = PLAIN
    ) -> tuple[Float[Tensor, "batch vocab"], ModelState]:
        """Read one token of each row after ``state``: what a call with one column gives, without its checks.

        Hooks of the layers are not called: an engine calls this, or the model itself if it has hooks.

        Args:
            tokens: Token ids.
            state: Where the last call or step stopped; the caller checks it, once.
            context: How the step is run.
        """
        return self.decoder.step(tokens, state, context)

    def read_out(
        self, hidden: Hidden, state: ModelState, labels: Tokens | None, logits_to_keep: int | None
    ) -> ModelOutput:
        """Turn the last hidden states into logits and loss, as asked for."""
        loss = None if labels is None else self._loss(hidden, labels)
        if logits_to_keep == 0:
            return ModelOutput(None, state, loss)
        kept = hidden if logits_to_keep is None else hidden[:, -logits_to_keep:]
        return ModelOutput(self.decoder.logits(kept), state, loss)

    def _loss(self, hidden: Hidden, labels: Tokens) -> Float[Tensor, ""]:
        try:
            return self.decoder.loss(hidden, labels)
        except (IndexError, RuntimeError) as error:
            vocab = self.decoder.config.embedding.vocab_size
            wrong = labels[((labels < 0) & (labels != -100)) | (labels >= vocab)]
            if not wrong.numel():
                raise
            raise ValueError(
                f"every label must be -100 or from 0 to vocab_size - 1 = {vocab - 1}, but {wrong.numel()} are "
                f"outside, the first of them {int(wrong[0])}."
            ) from error


def check_predicts_next(model: LanguageModel) -> None:
    """Validate that a model can predict the next token.

    Raises:
        ValueError: If it is an encoder.
    """
    if not model.predicts_next_token:
        raise ValueError(
            f"model must predict the next token, but this {model.config.family} is an encoder, whose tokens see those "
            "after them: make one with bidirectional=False, or ask this one for masked tokens, with labels of your own."
        )


def check_call(
    tokens: Tensor,
    state: ModelState | None,
    labels: Tensor | None,
    mask: Tensor | None,
    starts: Tensor | None,
    logits_to_keep: int | None,
) -> None:
    """Validate the arguments of a call. Only shapes and dtypes are read, so that no GPU is waited for."""
    expected = (
        ("state", state, RecurrentState | None, "state of this model, or None"),
        ("tokens", tokens, Tensor, "tensor of ids"),
    )
    for name, given, kind, noun in expected:
        if not isinstance(given, kind):
            raise TypeError(f"{name} must be a {noun}, but is a {type(given).__name__}.")
    if tokens.ndim != 2:
        raise ValueError(f"tokens must be (batch, time), but have shape {tuple(tokens.shape)}.")
    if tokens.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"tokens must be integer ids (int64 or int32), but are {tokens.dtype}.")
    if 0 in tokens.shape:
        raise ValueError(f"tokens must hold at least one token, but have shape {tuple(tokens.shape)}.")
    for name, given, dtypes in (
        ("labels", labels, (torch.int64,)),
        ("mask", mask, (torch.bool,)),
        ("starts", starts, (torch.bool,)),
    ):
        if given is None:
            continue
        if given.shape != tokens.shape:
            raise ValueError(
                f"{name} must have the shape of tokens, {tuple(tokens.shape)}, but have {tuple(given.shape)}."
            )
        if given.dtype not in dtypes:
            raise ValueError(f"{name} must be {dtypes[0]}, but are {given.dtype}.")
    if state is not None and state.batch_size != tokens.shape[0]:
        raise ValueError(
            f"state must have one row for each row of tokens, {tokens.shape[0]}, but has {state.batch_size}; "
            "state.select(rows) keeps or repeats rows."
        )
    uneven = None if state is None else _uneven(state, tokens.shape[0])
    if uneven is not None:
        raise ValueError(
            f"state must have one row for each row of tokens in each of its tensors, {tokens.shape[0]}, but "
            f"{uneven}; take it from a model's output."
        )
    if logits_to_keep is not None and logits_to_keep < 0:
        raise ValueError(f"logits_to_keep must be at least 0, or None for all, but is {logits_to_keep}.")


def _uneven(state: ModelState, rows: int) -> str | None:
    """What has another number of rows; None if nothing has."""
    found = ((name, tensor.shape[0]) for name, tensor in named_tensors(state).items() if tensor.shape[0] != rows)
    return next((f"its {name} has {count}" for name, count in found), None)
