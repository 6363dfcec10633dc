"""Models whose weights are whole numbers of 8 or 4 bits."""

import torch

from retentive.config_types import check_kind
from retentive.layers.quantised import QuantisationConfig, quantise_layers, set_dtype
from retentive.models.base import DecoderModel


def quantise(model: DecoderModel, config: QuantisationConfig) -> list[str]:
    """Round the weights of all linear layers and tables of a model, in place; norms and other vectors stay as they are.

    The model then computes with torch's own kernels for such weights on a CPU, and cannot be trained. Its states are of
    another model than before.

    Args:
        model: Of any family, with weights of floats. On the meta device it gets the layers without values.
        config: How weights are rounded.

    Returns:
        Names of what has 8 bits because 4 bits do not fit its shape.

    Raises:
        TypeError: If an argument is of another class.
        ValueError: If the model is quantised already.
        MismatchError: If a hook or a patched ``forward`` of what is rounded would be lost.
    """
    check_kind("config", config, QuantisationConfig, cure="QuantisationConfig(bits=8)")
    check_kind("model", model, DecoderModel)
    if model.quantisation is not None:
        raise ValueError(
            f"model must have weights of floats, but has {model.quantisation.bits} bits: quantise the model that it "
            "was made of."
        )
    wide = quantise_layers(model, config)
    model.quantisation = config
    return wide


def computes_in(model: DecoderModel, dtype: torch.dtype) -> None:
    """Say in which dtype a quantised model looks tokens up, after its tensors were loaded."""
    set_dtype(model, dtype)


def check_trainable(model: object) -> None:
    """Refuse a quantised model where weights are changed.

    Raises:
        ValueError: If it is one.
    """
    quantisation = getattr(model, "quantisation", None)
    if quantisation is not None:
        raise ValueError(
            f"model must have weights of floats to be trained, but has {quantisation.bits} bits: train the model that "
            "it was made of, and quantise the result."
        )
