"""Classes of texts or of tokens, from a recurrent memory."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.config_types import check_count, check_kind
from retentive.models.rmt.config import RecurrentMemoryConfig
from retentive.models.rmt.model import RecurrentMemoryTransformer
from retentive.models.rmt.state import RecurrentMemoryState
from retentive.ops.cross_entropy import IGNORED
from retentive.shapes import TokenFlags, Tokens
from retentive.state import ModelState


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


class RecurrentMemoryClassifier(nn.Module):
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
        super().__init__()
        check_kind("config", config, RecurrentMemoryConfig)
        check_count("num_classes", num_classes, least=2)
        if not per_token and not config.carried_tokens:
            raise ValueError(
                "a text's class is told from its memory tokens, but config carries none; give it num_memory_tokens "
                "with memory='tokens', or per_token=True."
            )
        self.per_token = per_token
        self.num_classes = num_classes
        self.backbone_model = RecurrentMemoryTransformer(config)
        self.head = nn.Linear(config.decoder.embedding.hidden_size, num_classes)

    def forward(
        self,
        tokens: Tokens,
        state: ModelState | None = None,
        labels: Int[Tensor, "batch *time"] | None = None,
        *,
        mask: TokenFlags = None,
        starts: TokenFlags = None,
    ) -> ClassifierOutput:
        """Read tokens after ``state``; arguments are those of a `LanguageModel`, but for the labels.

        ``labels`` are the class of each text (batch), or of each token (batch, time), -100 where none counts. With
        ``starts``, a text's class is that of the row's last document.

        Raises:
            ValueError: If the labels are not of the shape that the head needs.
        """
        hidden, following = self.backbone_model.read(tokens, state, mask=mask, starts=starts)
        if not self.per_token:
            hidden = self.backbone_model.summarise(following).mean(1).to(hidden.dtype)
        logits: Tensor = self.head(hidden)
        loss = None
        if labels is not None:
            if labels.shape != logits.shape[:-1]:
                raise ValueError(
                    f"labels must be one class for each {'token' if self.per_token else 'text'}, shape "
                    f"{tuple(logits.shape[:-1])}, but have {tuple(labels.shape)}."
                )
            flat = logits.reshape(-1, self.num_classes)
            total = nn.functional.cross_entropy(flat, labels.reshape(-1), ignore_index=IGNORED, reduction="sum")
            loss = total / (labels != IGNORED).sum().clamp_min(1)
        return ClassifierOutput(logits, following, loss)
