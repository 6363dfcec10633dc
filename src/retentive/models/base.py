"""The base of the library's own families: a language model around one decoder."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from inspect import Parameter, signature
from typing import Any, ClassVar, get_type_hints

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.layers.parameters.reset import reset_parts
from retentive.layers.quantised import QuantisationConfig
from retentive.layers.token_place import PLAIN, StepContext
from retentive.models.calls import ModelCall, check_call
from retentive.models.decoder import Decoder
from retentive.models.layer_states import check_layers
from retentive.models.protocol import ChunkedReading, FamilyConfig, ModelOutput
from retentive.private_apis import is_protocol
from retentive.shapes import Hidden, TokenFlags, Tokens
from retentive.state import ModelState


class CalledModel(nn.Module):
    """A module with the call of a `LanguageModel`, whose arguments it checks."""

    def forward(
        self,
        tokens: Tokens,
        state: ModelState | None = None,
        labels: Tokens | None = None,
        *,
        mask: TokenFlags = None,
        starts: TokenFlags = None,
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
        return self.answer(ModelCall(tokens, state, labels, mask, starts, logits_to_keep))

    @abstractmethod
    def answer(self, call: ModelCall) -> ModelOutput:
        """What the model makes of a call whose arguments are checked."""


class DecoderModel(CalledModel):
    """A decoder with the call of a `LanguageModel`: tokens, state and labels in; logits, state and loss out.

    Attributes:
        quantisation: How weights were rounded to whole numbers; None for a model of floats. See `quantise`.
        recomputes_segments: Whether a family that reads segments computes each again in the backward pass; None in
            families that read none.
        predicts_labels: Whether labels are what a head of another kind tells, such as classes, and not tokens.
        read_in_order: Why the parts of a text cannot be read at the same time; None in families whose parts can.
        is_plain_decoder: Whether the family is a decoder and nothing around one, so that others can be built around it.
    """

    stepped: ClassVar[tuple[str, ...]] = ("decoder",)
    """See `Block`."""
    quantisation: QuantisationConfig | None = None
    recomputes_segments: bool | None = None
    read_in_order: ClassVar[str | None] = None
    is_plain_decoder: ClassVar[bool] = True
    predicts_labels: ClassVar[bool] = False

    def __new__(cls, *arguments: Any, **options: Any):
        """Refuse fields of the config as arguments: Python's own message does not say where they belong."""
        taken = signature(cls.__init__).parameters
        fields = [name for name in options if name not in taken]
        if fields and not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in taken.values()):
            expected = get_type_hints(cls).get("config")
            kind = getattr(expected, "__name__", "its config")
            first = f"{fields[0]}={options[fields[0]]!r}"
            raise TypeError(
                f"config must be given to {cls.__name__}, and not {', '.join(fields)}: "
                f"{cls.__name__}({kind}({first}, ...))."
            )
        return super().__new__(cls)

    def __init__(self, config: FamilyConfig) -> None:
        """Make the decoder that the config describes."""
        super().__init__()
        expected = get_type_hints(type(self)).get("config")
        if isinstance(expected, type) and not is_protocol(expected) and type(config) is not expected:
            cure = "retentive.models.registry.build(config) makes the model of any config"
            if isinstance(config, Mapping):
                cure = f"give {expected.__name__}(**values)"
            raise TypeError(
                f"config of a {type(self).__name__} must be a {expected.__name__}, but is a {type(config).__name__}; "
                f"{cure}."
            )
        self.config = config
        self.decoder = Decoder(config.decoder)

    def reset_parameters(self) -> None:
        """Fill all parameters anew: after the same seed, with the numbers of a new model.

        For a model that was made on the meta device and given memory by ``to_empty(device=...)``.

        Raises:
            ValueError: If parameters are sharded.
            TypeError: If a part of another kind holds parameters and has no ``reset_parameters``.
        """
        reset_parts(self)
        self.fill_own()

    def fill_own(self) -> None:
        """Fill parameters outside the decoder by the family's rule, where it has one."""

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> ModelState:
        """What ``state=None`` means, as a value."""
        return self.decoder.initial_state(batch_size, device)

    @property
    def device(self) -> torch.device:
        """The device of the token table."""
        return self.decoder.embedding.tokens.weight.device

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.decoder.config.embedding.vocab_size

    @property
    def longest_text(self) -> int | None:
        """Longest text in tokens, where positions are learned; None without a limit."""
        return self.decoder.config.embedding.max_positions

    @property
    def state_is_bounded(self) -> bool:
        """Whether the state of every layer stops growing, however long a text becomes."""
        return self.decoder.config.state_is_bounded

    @property
    def caches_tokens(self) -> bool:
        """Whether the state of some layer has entries of single tokens, such as keys and values."""
        return self.decoder.config.caches_tokens

    @property
    def predicts_next_token(self) -> bool:
        """Whether a token's logits depend on nothing after it, so that they can be those of the next token."""
        return True

    @property
    def chunked_reading(self) -> ChunkedReading | None:
        """The chunks whose neighbours the model reads; None in families that read no neighbours."""
        return self.config.chunked_reading

    @property
    def products(self) -> nn.Module:
        """The linear layers of a step, without embedding and head, from which the number of threads is chosen."""
        return self.decoder.blocks

    def optional_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters outside the decoder, which uses all of its own in every call."""
        own = {id(parameter) for parameter in self.decoder.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in own]

    def answer(self, call: ModelCall) -> ModelOutput:
        """Read the tokens of a call, and turn what the head reads into logits and loss."""
        hidden, following = self.hidden_states(call)
        return self.read_out(hidden, following, call.labels, call.logits_to_keep)

    def hidden_states(self, call: ModelCall) -> tuple[Hidden, ModelState]:
        """Return what the head reads, of at least the columns that the call asks for, and the state after it."""
        state = call.state
        if state is not None:
            self.check_state(state)
        position = None if state is None else state.position
        layout = self.decoder.layout(call.tokens, position, mask=call.mask, starts=call.starts)
        return self.decoder(self.decoder.embed(call.tokens, layout), state, layout)

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

    def tokens_within(self, state: ModelState) -> int | None:
        """See `BorderedSteps`: a plain decoder has no borders."""
        return None

    def step_within(
        self, tokens: Int[Tensor, "batch"], state: ModelState, context: StepContext
    ) -> tuple[Float[Tensor, "batch vocab"], ModelState]:
        """See `BorderedSteps`."""
        return self.step(tokens, state, context)

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
