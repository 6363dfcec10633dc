"""The interface of a language model: what training, generation, evaluation and files need of one."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.layers.token_place import PLAIN, StepContext
from retentive.models.decoder import DecoderConfig
from retentive.shapes import Logits, TokenFlags, Tokens
from retentive.state import ModelState


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
class ModelConfig(Protocol):
    """The config of any language model: a frozen dataclass with a name for its kind of model."""

    family: ClassVar[str]


@runtime_checkable
class FamilyConfig(ModelConfig, Protocol):
    """The flat config of a family in the registry, all of which are built around the library's decoder."""

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder's parts."""
        ...

    @property
    def chunked_reading(self) -> ChunkedReading | None:
        """The chunks whose neighbours the model reads; None for a model that reads no neighbours."""
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """A torch module that reads tokens after a state, and returns logits, the next state and a loss.

    `DecoderModel` is the base of the families in the registry. A model from elsewhere inherits from ``torch.nn.Module``
    and has these methods and attributes; nothing has to be registered.

    Attributes:
        training: Whether the model is in training mode, as of any module.
        recomputes_segments: Whether a model that reads segments computes each again in the backward pass, to save
            memory; training sets it. None in models that cannot do so, such as those that read no segments.
        config: The frozen dataclass that describes the model; it is written into the files of states.
        device: The device of the model, on which tokens are expected.
        vocab_size: Number of token ids, which is the number of logits of a column.
        longest_text: Tokens that one text can have, because each has a learned position; None where there is no limit.
        state_is_bounded: Whether the state stops growing, however long a text becomes.
        caches_tokens: Whether the state has entries of single tokens, such as keys and values, which may be masked by
            row.
        predicts_next_token: Whether a token's logits depend on nothing after it, so that they can be those of the next
            token.
        chunked_reading: The chunks whose neighbours the model reads; None for a model that reads no neighbours.
        products: The linear layers of a step, without embedding and head, from which the number of threads is chosen.
    """

    training: bool
    recomputes_segments: bool | None

    def __call__(
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

        `CalledModel.forward` says what each argument means.
        """
        ...

    def step(
        self, tokens: Int[Tensor, "batch"], state: ModelState, context: StepContext = PLAIN
    ) -> tuple[Float[Tensor, "batch vocab"], ModelState]:
        """Read one token of each row after ``state``, which was checked: logits of the next token, and the next state.

        It gives what a call with one column gives. An engine that runs many steps calls it.

        Args:
            tokens: Token ids.
            state: Where the last call or step stopped.
            context: How the step is run; a model may ignore it.
        """
        ...

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> ModelState:
        """Return what ``state=None`` means, as a value; on the model's device unless another one is named."""
        ...

    def check_state(self, state: object) -> None:
        """Validate that a state was made by a model of this config. Looks at types, shapes and configs.

        Raises:
            MismatchError: If it was not; the message says what differs.
        """
        ...

    @property
    def config(self) -> ModelConfig: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def longest_text(self) -> int | None: ...
    @property
    def state_is_bounded(self) -> bool: ...
    @property
    def caches_tokens(self) -> bool: ...
    @property
    def predicts_next_token(self) -> bool: ...
    @property
    def chunked_reading(self) -> ChunkedReading | None: ...
    @property
    def products(self) -> nn.Module: ...

    def optional_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters that some calls do not use, such as those of a memory that no document reads."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters, as of any module."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters with their names, as of any module."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """The model and all modules inside, as of any module."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All weights by name, as of any module."""
        ...

    def train(self, mode: bool = True) -> "LanguageModel":
        """Put the model in training mode, as any module."""
        ...

    def eval(self) -> "LanguageModel":
        """Put the model in eval mode, as any module."""
        ...


@runtime_checkable
class BorderedSteps(Protocol):
    """A model that says how far its steps are one function of tensors, which can be compiled and exported.

    Inside the borders of a segment or a chunk, a step decides nothing by the values of its tensors. A token at a border
    is read by `LanguageModel.step`.
    """

    def tokens_within(self, state: ModelState) -> int | None:
        """Return how many of the next tokens `step_within` can read; None where no border comes."""
        ...

    def step_within(
        self, tokens: Int[Tensor, "batch"], state: ModelState, context: StepContext
    ) -> tuple[Float[Tensor, "batch vocab"], ModelState]:
        """Read one token of each row as `LanguageModel.step` does, where `tokens_within` is not 0.

        Entries of a state that grow are appended by ``context.append`` alone, and all shapes follow from shapes.
        """
        ...


def as_module(model: LanguageModel) -> nn.Module:
    """Return the model as the torch module that it is, for torch's own functions.

    Raises:
        TypeError: If it is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, but is a {type(model).__name__}; inherit from nn.Module and call "
            "super().__init__()."
        )
    return model
