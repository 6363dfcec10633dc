"""A family's config as transformers wants it."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from retentive.checkpoints.transformers_files import AUTO_CLASSES, AUTO_MAP
from retentive.errors import MismatchError
from retentive.models.protocol import FamilyConfig
from retentive.models.registry import config_from_dict, config_to_dict, described_now

OF_THE_FOLDER = frozenset({"format", "format_version", "library_version", "weights", "tokenizer", "training"})
"""Keys of a saved model's ``config.json`` that are about the folder and not about the model."""
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
"""Numbers that follow from the family's config; peft reads them from ``to_dict`` to make virtual tokens."""


class RetentiveConfig(PreTrainedConfig):
    """The config of any family, for transformers.

    Attributes:
        config: What `config_to_dict` gives: the family's name and its options.
    """

    model_type = "retentive"
    # Without this, transformers would make a config without arguments to learn the defaults.
    has_no_defaults_at_init = True
    # A state is no prediction: `Trainer` would gather it from every batch that it evaluates. Its name depends on the
    # release of transformers.
    keys_to_ignore_at_inference = ["cache", "past_key_values"]  # noqa: RUF012 - as transformers declares it

    def __init__(self, config: FamilyConfig | Mapping[str, Any] | None = None, **others: Any) -> None:
        """Take a family's config.

        Args:
            config: The family's config, or what `config_to_dict` makes of it.
            others: What every ``PreTrainedConfig`` takes, such as ``eos_token_id``.

        Raises:
            ValueError: If there is none.
            MismatchError: If it describes no model that can be made here.
        """
        if config is None:
            raise ValueError(
                "config must be a family's config, as in RetentiveConfig(RetNetConfig(vocab_size=257, ...)), but is "
                "missing; of a saved model, AutoConfig.from_pretrained(folder) reads it."
            )
        if others.get("quantisation") is not None:
            raise MismatchError(
                "transformers must be given a model with weights of floats, but this one is quantised: load it with "
                "retentive.load_model, or take the model that it was made of."
            )
        # As JSON holds it, so that it is the same before and after a file: lists and tuples are one there.
        self.config = described_now(config if isinstance(config, Mapping) else config_to_dict(config))
        decoder = self.family_config.decoder
        others = {name: value for name, value in others.items() if name not in (*OF_THE_FOLDER, *SIZES)}
        others["tie_word_embeddings"] = decoder.tie_embeddings
        others.setdefault("auto_map", dict(AUTO_MAP))
        super().__init__(**others)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Do nothing: a folder leads to the installed package, and no copy of its code is saved."""

    def to_dict(self) -> dict[str, Any]:
        """Return what ``config.json`` says: the architecture is a class that the module ``transformers`` has."""
        content: dict[str, Any] = super().to_dict()
        named = content.get("architectures") or []
        sizes = {name: getattr(self, name) for name in SIZES}
        return {**content, **sizes, "architectures": [AUTO_CLASSES.get(name, name) for name in named] or None}

    @property
    def family_config(self) -> Any:
        """The family's config as the frozen dataclass that `retentive.models.registry.build` takes.

        Raises:
            MismatchError: If it describes no model that can be made here.
        """
        try:
            return config_from_dict(self.config)
        except (MismatchError, ValueError, TypeError) as error:
            raise MismatchError(f"config describes no model that can be made here: {error}") from error

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.family_config.decoder.embedding.vocab_size

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.family_config.decoder.embedding.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Blocks."""
        return self.family_config.decoder.num_layers

    @property
    def num_attention_heads(self) -> int:
        """Heads in a block."""
        return self.family_config.decoder.num_heads
