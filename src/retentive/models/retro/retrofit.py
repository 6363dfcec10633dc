"""RETROfit: a trained decoder learns to read neighbours, and keeps its weights (arXiv:2112.04426, section 3.2)."""

from torch import nn

from retentive.config_types import check_kind
from retentive.errors import MismatchError
from retentive.models.base import DecoderModel
from retentive.models.retro.config import RetroConfig
from retentive.models.retro.model import Retro
from retentive.models.retro.starting import start_from
from retentive.ops.lean.plain import check_weights_say_all
from retentive.renaming import renamed


@renamed(base="backbone")
def retrofit(backbone: DecoderModel, config: RetroConfig) -> Retro:
    """Give a trained decoder an encoder of neighbours and layers that read them; nothing else is trained.

    The decoder's weights are copied and frozen, so that without neighbours the result is the decoder's, to the last
    bit, however long it is trained; a model that is saved and loaded stays frozen. Optimizers of this library leave
    frozen parameters alone.

    The encoder starts from the decoder's token table and first layers, as far as their shapes are those of its own
    (`retro_over` makes it so); it has no biases. What reads neighbours starts from an output of zero, so that at first
    the result is the decoder's with neighbours, too.

    Args:
        backbone: A plain decoder, such as a `Transformer` or a `RetNet`.
        config: Of the RETRO; its ``backbone`` is the decoder's config.

    Raises:
        MismatchError: If the decoder has another config, or computes something else than its weights say.
        ValueError: If the config would change what the decoder computes.
    """
    check_kind("backbone", backbone, DecoderModel)
    check_kind("config", config, RetroConfig)
    if config.backbone != backbone.config:
        raise MismatchError(
            "config.backbone must be the config of the model that is fitted, but differs from it; give "
            "RetroConfig(backbone=model.config, ...)."
        )
    trained_with = backbone.decoder.config.residual
    if config.residual != trained_with:
        raise ValueError(
            f"residual must be {trained_with!r}, which the backbone was trained with, but is {config.residual!r}; give "
            "RetroConfig the backbone's."
        )
    made = Retro(config)
    check_weights_say_all("backbone", backbone.decoder, made.decoder)
    parameter = next(backbone.parameters())
    model = made.to(device=parameter.device, dtype=parameter.dtype)
    model.decoder.load_state_dict(backbone.decoder.state_dict())
    start_from(model, backbone.decoder)
    model.decoder.requires_grad_(False)
    return model.train(backbone.training)


def trainable_share(model: nn.Module) -> float:
    """Share of the parameters that learn, 0 to 1."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, learns in sizes if learns) / sum(size for size, _ in sizes)
