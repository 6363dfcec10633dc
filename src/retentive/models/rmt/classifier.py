"""Classes of texts or of tokens, from a recurrent memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.config_types import check_count, check_kind, check_types
from retentive.layers.token_place import PLAIN, StepContext
from retentive.models.base import DecoderModel
from retentive.models.decoder import Decoder, DecoderConfig
from retentive.models.rmt.config import RecurrentMemoryConfig
from retentive.models.rmt.model import RecurrentMemoryTransformer
from retentive.models.rmt.state import RecurrentMemoryState
from retentive.ops.cross_entropy import IGNORED
from retentive.ops.lean.plain import check_adds_nothing_to_calls
from retentive.shapes import TokenFlags, Tokens
from retentive.state import ModelState


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentMemoryHeadConfig:
    """Base of the configs of models with a head of their own over a recurrent memory.

    Attributes:
        backbone: Of the recurrent memory.
    """

    backbone: RecurrentMemoryConfig

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)

    @property
    def chunked_reading(self) -> None:
        """None: the model reads no neighbours."""
        return None

    @property
    def decoder(self) -> DecoderConfig:
        """The decoder's parts."""
        return self.backbone.decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig(RecurrentMemoryHeadConfig):
    """A recurrent memory and its head for classes, as they are saved.

    Attributes:
        backbone: Of the recurrent memory.
        num_classes: Classes.
        per_token: Tell a class for every token, not for the text.
    """

    family: ClassVar[str] = "rmt_classifier"

    num_classes: int
    per_token: bool = False


@dataclass(frozen=True, slots=True)
class ClassifierOutput:
    """What one call of a classifier returns.

    Attributes:
        logits: Of the classes, for each text or each token.
        state: Goes into the next call.
        loss: Mean over labels that are not -100, in nats; None without labels.
    """

    logits: Float[Tensor, "batch *time classes"]
    state: RecurrentMemoryState
    loss: Float[Tensor, ""] | None = None


class RecurrentMemoryHead(DecoderModel):
    """Base of models with a head of their own over a recurrent memory, their ``backbone_model``.

    They are trained, saved and loaded like a family, and predict no tokens.
    """

    is_plain_decoder = False
    predicts_labels = True
    backbone_model: RecurrentMemoryTransformer

    def __init__(self, config: Any, backbone: RecurrentMemoryConfig) -> None:
        """Make the recurrent memory; the subclass adds its head."""
        nn.Module.__init__(self)
        self.config = config
        self.backbone_model = RecurrentMemoryTransformer(backbone)

    def check_backbone(self) -> RecurrentMemoryTransformer:
        """Return the recurrent memory, of which the subclass calls methods, if its call does nothing more.

        Raises:
            ValueError: If it does.
        """
        cure = "put it on backbone_model.decoder, which is called for each segment, or on this model"
        check_adds_nothing_to_calls("backbone_model", self.backbone_model, RecurrentMemoryTransformer, cure)
        return self.backbone_model

    @property
    def decoder(self) -> Decoder:  # pyright: ignore[reportIncompatibleVariableOverride] - a module is one part alone
        """The recurrent memory's decoder."""
        return self.backbone_model.decoder

    @property
    def longest_text(self) -> int | None:
        """The recurrent memory's."""
        return self.backbone_model.longest_text

    @property
    def state_is_bounded(self) -> bool:
        """The recurrent memory's."""
        return self.backbone_model.state_is_bounded

    @property
    def predicts_next_token(self) -> bool:
        """False: the head tells something else."""
        return False

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> ModelState:
        """The recurrent memory's."""
        return self.backbone_model.initial_state(batch_size, device)

    def check_state(self, state: object) -> None:
        """Validate that a state is the recurrent memory's; see `LanguageModel.check_state`."""
        self.backbone_model.check_state(state)

    def step(
        self, tokens: Int[Tensor, "batch"], state: ModelState, context: StepContext = PLAIN
    ) -> tuple[Float[Tensor, "batch vocab"], ModelState]:
        """Not there: nothing is generated.

        Raises:
            TypeError: Always.
        """
        raise TypeError(f"a {type(self).__name__} has no step, for it predicts no next token; call it.")

    def optional_parameters(self) -> Iterable[nn.Parameter]:
        """The memory's parameters, and the head's."""
        decoder = {id(parameter) for parameter in self.decoder.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in decoder]


class RecurrentMemoryClassifier(RecurrentMemoryHead):
    """A recurrent memory with a head for classes; texts may be of any length, and go on from call to call.

    The class of a text is predicted from the memory after its last segment, finished or not. Its ``backbone_model`` is
    an ordinary recurrent memory, so it can be trained on masked or next tokens first.
    """

    def __init__(self, config: RecurrentMemoryConfig, num_classes: int, *, per_token: bool = False) -> None:
        """Make the model and its head.

        Args:
            config: Of the recurrent memory; with ``bidirectional`` it is an encoder.
            num_classes: Classes.
            per_token: Tell a class for every token, not for the text.

        Raises:
            ValueError: If there are fewer than two classes, or texts are to be told from a memory that is not there.
        """
        check_kind("config", config, RecurrentMemoryConfig)
        check_count("num_classes", num_classes, least=2)
        if not per_token and not config.carried_tokens:
            raise ValueError(
                "a text's class is told from its memory tokens, but config carries none; give it num_memory_tokens "
                "with memory='tokens', or per_token=True."
            )
        described = ClassifierConfig(backbone=config, num_classes=num_classes, per_token=per_token)
        super().__init__(described, config)
        self.per_token = per_token
        self.num_classes = num_classes
        self.head = nn.Linear(config.decoder.embedding.hidden_size, num_classes)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - labels and logits are of classes
        self,
        tokens: Tokens,
        state: ModelState | None = None,
        labels: Int[Tensor, "batch *time"] | None = None,
        *,
        mask: TokenFlags = None,
        starts: TokenFlags = None,
        logits_to_keep: int | None = None,
    ) -> ClassifierOutput:
        """Read tokens after ``state``; arguments are those of a `LanguageModel`, but for the labels.

        ``labels`` are the class of each text (batch), or of each token (batch, time), -100 where none counts; as in
        every `Batch`, the class of a text may also stand in any one column of (batch, time). With ``starts``, a text's
        class is that of the row's last document. ``logits_to_keep`` changes nothing: there are few classes.

        Raises:
            ValueError: If the labels are not of the shape that the head needs.
        """
        backbone = self.check_backbone()
        hidden, following = backbone.read(tokens, state, mask=mask, starts=starts)
        if not self.per_token:
            hidden = backbone.summarise(following).mean(1).to(hidden.dtype)
        logits: Tensor = self.head(hidden)
        loss = None
        if labels is not None:
            if not self.per_token and labels.ndim == 2 and labels.shape == tokens.shape:
                labels = _one_a_row(labels)
            if labels.shape != logits.shape[:-1]:
                raise ValueError(
                    f"labels must be one class for each {'token' if self.per_token else 'text'}, shape "
                    f"{tuple(logits.shape[:-1])}, but have {tuple(labels.shape)}."
                )
            flat = logits.reshape(-1, self.num_classes)
            total = nn.functional.cross_entropy(flat, labels.reshape(-1), ignore_index=IGNORED, reduction="sum")
            loss = total / (labels != IGNORED).sum().clamp_min(1)
        return ClassifierOutput(logits, following, loss)


def classifier_of(config: ClassifierConfig) -> RecurrentMemoryClassifier:
    """Make the model that a config describes."""
    return RecurrentMemoryClassifier(config.backbone, config.num_classes, per_token=config.per_token)


def _one_a_row(labels: Tokens) -> Int[Tensor, "batch"]:
    """The one label of each row, whichever column it stands in.

    Raises:
        ValueError: If a row has more than one.
    """
    counts = (labels != IGNORED).sum(1)
    if bool((counts > 1).any()):
        raise ValueError(
            f"labels must be at most one class in each row, for a text has one, but a row has {int(counts.max())}."
        )
    return labels.amax(1)
