"""A recurrent memory around a trained decoder."""

import torch
from torch import Tensor, nn

from retentive.config_types import check_kind
from retentive.errors import MismatchError
from retentive.models.base import DecoderModel
from retentive.models.rmt.config import RecurrentMemoryConfig
from retentive.models.rmt.model import RecurrentMemoryTransformer
from retentive.ops.lean.plain import check_weights_say_all
from retentive.renaming import renamed


@renamed(base="backbone")
def with_memory(backbone: DecoderModel, config: RecurrentMemoryConfig) -> RecurrentMemoryTransformer:
    """Put a recurrent memory around a trained decoder; of the result, the memory alone learns.

    The decoder's weights are copied and frozen; a model that is saved and loaded stays frozen. To let more of it learn,
    call ``requires_grad_(True)`` on those parts, or add LoRA (``peft.inject_adapter_in_model``). Learned memory tokens
    start as large as the decoder's embeddings are.

    Args:
        backbone: A plain decoder, such as a converted Llama.
        config: Of the memory; its ``backbone`` is the decoder's config. With ``causal_memory=True``, columns read one
            another as the decoder's tokens do.

    Raises:
        MismatchError: If the decoder has another config, or computes something else than its weights say.
    """
    check_kind("backbone", backbone, DecoderModel)
    check_kind("config", config, RecurrentMemoryConfig)
    if config.backbone != backbone.config:
        raise MismatchError(
            "config.backbone must be the config of the model that the memory goes around, but differs from it; give "
            "RecurrentMemoryConfig(backbone=model.config, ...)."
        )
    made = RecurrentMemoryTransformer(config)
    check_weights_say_all("backbone", backbone.decoder, made.decoder)
    table = backbone.decoder.embedding.tokens.weight
    model = made.to(device=table.device, dtype=table.dtype)
    model.decoder.load_state_dict(backbone.decoder.state_dict())
    model.decoder.requires_grad_(False)
    for learned in model.memory.parameters():
        start_as_large_as(learned, table)
    return model.train(backbone.training)


@torch.no_grad()
def start_as_large_as(learned: Tensor, table: Tensor) -> None:
    """Draw learned memory tokens as large as the embeddings of a decoder."""
    nn.init.normal_(learned, std=float(table.float().std()))
