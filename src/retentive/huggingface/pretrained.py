"""What all our models have in common as models of transformers: weights, tables, folders."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import initialization as init

from retentive.checkpoints.transformers_files import write_code_file
from retentive.huggingface.config import RetentiveConfig
from retentive.huggingface.offloading import keep_own_tensors
from retentive.huggingface.resizing import resize_vocabulary, with_vocab_size
from retentive.models.base import DecoderModel
from retentive.models.calls import check_predicts_next
from retentive.models.protocol import FamilyConfig
from retentive.models.recomputing import set_recomputing
from retentive.models.registry import build
from retentive.private_apis import was_loaded_by_transformers


class RetentivePreTrainedModel(PreTrainedModel):
    """A language model of any family in the clothes of transformers; subclasses say what it is asked for.

    Attributes:
        model: The model itself, which `save_model`, `generate` and all else of this library take.
    """

    config_class = RetentiveConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # What `device_map` keeps on one device.
    _no_split_modules = ["Block", "EncoderBlock", "CrossAttention"]  # noqa: RUF012 - as transformers declares it

    def __init__(self, config: RetentiveConfig | FamilyConfig) -> None:
        """Make the model that the config describes, of a family or of transformers.

        Raises:
            ValueError: If it is an encoder.
        """
        if not isinstance(config, RetentiveConfig):
            config = RetentiveConfig(config)
        super().__init__(config)
        self.model: DecoderModel = build(config.family_config)
        check_predicts_next(self.model)
        # Where `from_pretrained` makes a model, nothing is filled in yet.
        self._was_filled = not any(parameter.is_meta for parameter in self.model.parameters())

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a folder lacked by the rules of the family; `from_pretrained` calls it for each module."""
        lacking = {
            name: tensor
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
            if not was_loaded_by_transformers(tensor)
        }
        if self._was_filled or not lacking:
            return
        fresh = build(self.config.family_config)
        for path, inner in self.model.named_modules():
            if inner is module:
                made = fresh.get_submodule(path)
                for name, tensor in lacking.items():
                    init.copy_(tensor, getattr(made, name).to(tensor))

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] = checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        """Recompute blocks in the backward pass, or no longer; `gradient_checkpointing_enable` calls it."""
        # By this name transformers knows that it is on.
        self.gradient_checkpointing = enable
        set_recomputing(self.model, gradient_checkpointing_func if enable else None, every_n_layers)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a folder as every transformers model does; see `PreTrainedModel.from_pretrained`."""
        load: Any = super().from_pretrained
        loaded: Any = load(*args, **kwargs)
        keep_own_tensors(cast("nn.Module", loaded[0] if isinstance(loaded, tuple) else loaded))
        return loaded

    def get_input_embeddings(self) -> nn.Module:
        """The table of tokens."""
        return self.model.decoder.embedding.tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another table of tokens in place."""
        self.model.decoder.embedding.tokens = cast("nn.Embedding", value)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, *_: Any, **__: Any
    ) -> nn.Embedding:
        """Give the model another number of tokens, keep the rows that both have, and return the table of tokens.

        Args:
            new_num_tokens: Token ids of the model after the call; None keeps them.
            pad_to_multiple_of: Their number is rounded up to a multiple of it.

        Raises:
            ValueError: If there would be none.
        """
        wanted = self.config.vocab_size if new_num_tokens is None else int(new_num_tokens)
        if wanted < 1:
            raise ValueError(f"new_num_tokens must be at least 1, but is {wanted}.")
        if pad_to_multiple_of is not None:
            wanted += -wanted % pad_to_multiple_of
        if wanted != self.config.vocab_size:
            self.config.config = with_vocab_size(self.config.config, wanted)
            resize_vocabulary(self.model, self.config.config)
        return self.model.decoder.embedding.tokens

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save as every transformers model does, and the file that leads a reader to this package."""
        super().save_pretrained(save_directory, *args, **kwargs)
        write_code_file(Path(save_directory))

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Do nothing: a folder leads to the installed package, and no copy of its code is saved."""


def refuse_attentions(output_attentions: bool | None) -> None:
    """Check that no attention weights are asked for.

    Raises:
        ValueError: If they are.
    """
    if output_attentions:
        raise ValueError("output_attentions must be False or left out, for no model here keeps them, but is True.")
