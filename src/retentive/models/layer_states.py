"""Whether what a decoder's layers carry fits a decoder: a state of another model is refused, not half read."""

from retentive.errors import MismatchError
from retentive.layers.attention import AttentionConfig, KeyValueState
from retentive.layers.block import MixerConfig
from retentive.layers.retention import RetentionState
from retentive.state import ModelState, RecurrentState

LayerShape = tuple[str, int, int, int] | str
"""Kind of a layer's state, its heads and the channels of its keys and values."""


def shape_for(mixer: MixerConfig) -> LayerShape:
    """What a layer of this shape carries."""
    if isinstance(mixer, AttentionConfig):
        return ("keys", mixer.num_kv_heads, mixer.key_dim, mixer.value_dim)
    return ("retention", mixer.num_heads, mixer.key_dim, mixer.value_dim)


def shape_of(layer: RecurrentState) -> LayerShape:
    """What a layer's state is."""
    if isinstance(layer, KeyValueState):
        return ("keys", layer.key.shape[1], layer.key.shape[3], layer.value.shape[3])
    if isinstance(layer, RetentionState):
        return ("retention", layer.kv.shape[1], layer.kv.shape[2], layer.kv.shape[3])
    return type(layer).__name__


def check_layers(mixer: MixerConfig, num_layers: int, state: object) -> None:
    """Refuse a state that is not of a decoder of this shape. Looks at types and shapes alone.

    Raises:
        MismatchError: If it is not; the message says what differs.
    """
    if type(state) is not ModelState:
        raise MismatchError(
            f"state must be the ModelState of a plain decoder, but is a {type(state).__name__}; take it from this "
            "model's output or its initial_state."
        )
    expected = shape_for(mixer)
    for name, wanted, found in (
        ("layers", num_layers, len(state.layers)),
        *((f"layers[{number}]", expected, shape_of(layer)) for number, layer in enumerate(state.layers)),
    ):
        if wanted != found:
            raise MismatchError(
                f"state must be of a model of this config, but its {name}: {found}, the model's: {wanted}; states pass "
                "between models of one config only."
            )
