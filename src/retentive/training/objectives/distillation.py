"""Distillation (Hinton et al. 2015, arXiv:1503.02531): a model learns the next-token distributions of a teacher."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.checkpoints.weights import load_model, read_manifest
from retentive.config_types import check_types
from retentive.data.batch import IGNORED
from retentive.errors import MismatchError
from retentive.files.progress import say
from retentive.models.protocol import LanguageModel, ModelOutput, as_module
from retentive.shapes import Logits
from retentive.state import ModelState, RecurrentState
from retentive.training.field_checks import check_positive
from retentive.training.objectives.protocol import Measured, Objective, ObjectiveConfig, Vocabulary
from retentive.training.window import Window


@dataclass(frozen=True, kw_only=True)
class TaughtConfig(ObjectiveConfig):
    """What objectives with a teacher share.

    Attributes:
        teacher: Folder of a saved model of the library, which reads the same token ids.
    """

    teacher: Path

    def load_teacher(self, objective: str, vocabulary: Vocabulary, device: torch.device) -> LanguageModel:
        """Read the teacher; say so if it was saved without a tokenizer, so that nothing tells whether ids are its own.

        Raises:
            FileNotFoundError: If the folder holds no model.
            MismatchError: If the teacher reads other token ids.
        """
        manifest = read_manifest(self.teacher)
        size = manifest.config.decoder.embedding.vocab_size
        known = manifest.tokenizer_fingerprint, vocabulary.fingerprint
        if size < vocabulary.size or (None not in known and known[0] != known[1]):
            raise MismatchError(
                f"{objective}.teacher must have been trained with the tokenizer of the text, {vocabulary.size} ids, "
                f"but the model in {self.teacher} has another, of {size} ids: prepare the text with the teacher's "
                f"(retentive prepare --tokenizer {self.teacher} ...)."
            )
        if known[0] is None and known[1] is not None:
            say(
                f"the teacher in {self.teacher} was saved without a tokenizer: its token ids are taken for those of "
                "the text. save_model(model, folder, tokenizer) names it."
            )
        return load_model(self.teacher, device)

    def digests(self) -> Mapping[str, str]:
        """Return the digest of the teacher's weights: its folder may move."""
        return {"teacher": read_manifest(self.teacher).weights_digest}


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(TaughtConfig):
    """Learn what a trained model predicts, in place of the text's next tokens alone.

    Attributes:
        teacher: Folder of a saved model of the library, which reads the same token ids.
        temperature: What the logits of both models are divided by: above 1, unlikely tokens weigh more. The loss is
            multiplied by its square, so that gradients keep their size.
        text_share: Share of the loss that is the cross-entropy of the text's next tokens, 0 to 1.
    """

    temperature: float = 1.0
    text_share: float = 0.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self, "distillation.")
        check_positive("distillation.temperature", self.temperature)
        if not 0 <= self.text_share < 1:
            raise ValueError(f"distillation.text_share must be at least 0 and below 1, but is {self.text_share}.")

    def build(self, vocabulary: Vocabulary, device: torch.device) -> Objective:
        """Read the teacher; see `TaughtConfig.load_teacher`."""
        return Distillation(self.load_teacher("distillation", vocabulary, device), self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationState(RecurrentState):
    """What both models carry from window to window.

    Attributes:
        student: Of the model that learns.
        teacher: Of the model that it learns from.
    """

    student: ModelState
    teacher: ModelState


class Taught(Objective):
    """What objectives with a teacher share: both models read the text.

    Attributes:
        name: Of the objective, for messages.
    """

    name: str

    def __init__(self, teacher: LanguageModel) -> None:
        """Freeze the teacher and keep it in eval mode."""
        as_module(teacher).eval().requires_grad_(False)
        self.teacher = teacher

    def check(self, model: LanguageModel, *, carries_state: bool) -> None:
        """Refuse models that do not predict next tokens, and a teacher that cannot read what the student reads."""
        teacher = self.teacher
        for name, each in ((f"{self.name}.teacher", teacher), ("model", model)):
            if not each.predicts_next_token:
                raise ValueError(
                    f"{name} must read from left to right for objective {self.name!r}, which compares next tokens, "
                    "but is an encoder (bidirectional=True); train encoders by objective 'masked_tokens'."
                )
        chunks = teacher.chunked_reading
        if chunks is not None and chunks != model.chunked_reading:
            raise ValueError(
                f"{self.name}.teacher reads neighbours of chunks ({chunks}), so the model must read the same, but it "
                f"has {model.chunked_reading}; take another teacher, or the same chunks."
            )
        if carries_state and not teacher.state_is_bounded:
            raise ValueError(
                f"{self.name}.teacher must have a bounded state for data.mode='streamed', but attends to everything, "
                "which would grow with every step; take another teacher, or data.mode='packed'."
            )

    def initial_state(self, model: LanguageModel, batch_size: int) -> DistillationState:
        """Return both models' states of a new text."""
        return DistillationState(
            student=model.initial_state(batch_size), teacher=self.teacher.initial_state(batch_size)
        )


class Distillation(Taught):
    """Kullback-Leibler divergence of the student's next-token distribution from the teacher's, in nats."""

    name = "distillation"

    def __init__(self, teacher: LanguageModel, config: DistillationConfig) -> None:
        """Take a teacher, which is frozen."""
        super().__init__(teacher)
        self._config = config

    def advance(self, model: nn.Module, window: Window, state: RecurrentState | None) -> DistillationState:
        """Read a window with both models, without logits."""
        return self._read(model, window, state, logits_to_keep=0)[1]

    def __call__(self, model: nn.Module, window: Window, state: RecurrentState | None) -> Measured:
        """Sum the divergences at the positions that have a label."""
        (student, teacher), following = self._read(model, window, state, logits_to_keep=None)
        assert student is not None
        assert teacher is not None
        total = divergence(student, teacher, self._config.temperature).where(window.labels != IGNORED, 0.0)
        nats = total.sum(dtype=torch.float64) * (1 - self._config.text_share)
        if self._config.text_share:
            text = nn.functional.cross_entropy(
                wide(student).flatten(0, 1), window.labels.flatten(), ignore_index=IGNORED, reduction="sum"
            )
            nats = nats + text.to(torch.float64) * self._config.text_share
        return nats, window.num_labels, following

    def _read(
        self, model: nn.Module, window: Window, state: RecurrentState | None, *, logits_to_keep: int | None
    ) -> tuple[tuple[Logits | None, Logits | None], DistillationState]:
        both = cast("DistillationState | None", state)
        shared: dict[str, Any] = {"mask": window.mask, "starts": window.starts, "logits_to_keep": logits_to_keep}
        read: ModelOutput = model(
            window.tokens, None if both is None else both.student, **shared, **window.extra_inputs
        )
        extra: Mapping[str, Any] = window.extra_inputs if self.teacher.chunked_reading is not None else {}
        with torch.no_grad():
            taught: ModelOutput = self.teacher(window.tokens, None if both is None else both.teacher, **shared, **extra)
        following = DistillationState(student=read.state, teacher=taught.state)
        return (read.logits, taught.logits), following


def divergence(student: Logits, teacher: Logits, temperature: float) -> Float[Tensor, "batch time"]:
    """Return ``T^2 KL(softmax(teacher / T) || softmax(student / T))`` of each position, in nats.

    Rows that only one of them has, as published tables do beyond their tokenizer's ids, are left out.
    """
    both = min(student.shape[-1], teacher.shape[-1])
    student, teacher = student[..., :both], teacher[..., :both]
    wanted = (wide(teacher) / temperature).log_softmax(-1)
    found = (wide(student) / temperature).log_softmax(-1)
    return nn.functional.kl_div(found, wanted, reduction="none", log_target=True).sum(-1) * temperature**2


def wide(logits: Logits) -> Logits:
    """Return logits in float32 or wider, in which their softmax is taken."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
