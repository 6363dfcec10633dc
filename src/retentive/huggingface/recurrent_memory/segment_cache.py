"""Keys and values of an unfinished segment, of models whose cache is nothing else."""

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.layers.mixers.key_value_cache import KeyValueState

LayerSizes = tuple[int, int, int]
"""Heads of keys and values, and channels of a key and of a value."""


def cached_sizes(backbone: nn.Module) -> tuple[LayerSizes, ...]:
    """What each layer of a model caches for a token; empty for a model that caches anything but keys and values.

    One token is read to find out: configs do not tell. A model that keeps something else fails in that call, for it is
    given a cache that lacks what it looks for (Jamba, Mamba, xLSTM), or takes none. What else goes wrong is raised.
    """
    model = cast("Any", backbone)
    table: Tensor = model.get_input_embeddings().weight
    if table.is_meta or len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        return ()  # a state is on one device
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            cache = _empty_cache()
            token = torch.zeros(1, 1, dtype=torch.long, device=table.device)
            model(input_ids=token, use_cache=True, **{_cache_argument(model): cache})
        layers = cache.layers
    except (AttributeError, IndexError, TypeError):
        return ()
    finally:
        backbone.train(was_training)
    if len(layers) != model.config.get_text_config().num_hidden_layers:
        return ()
    plain = [
        type(layer).__name__ == "DynamicLayer" and layer.keys is not None and layer.keys.shape[2] == 1
        for layer in layers
    ]
    if not all(plain):
        return ()
    return tuple((layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in layers)


def empty_layers(
    sizes: Sequence[LayerSizes], batch: int, device: torch.device, dtype: torch.dtype
) -> tuple[KeyValueState, ...]:
    """Layers that have cached nothing."""
    return tuple(
        KeyValueState(
            key=torch.zeros(batch, heads, 0, key_dim, device=device, dtype=dtype),
            value=torch.zeros(batch, heads, 0, value_dim, device=device, dtype=dtype),
        )
        for heads, key_dim, value_dim in sizes
    )


def read_columns(
    backbone: nn.Module,
    columns: Float[Tensor, "batch columns hidden"],
    past: Sequence[KeyValueState],
    *,
    caches: bool,
    hidden_states: bool,
    mask: Int[Tensor, "batch longer"] | None = None,
    positions: Int[Tensor, "batch columns"] | None = None,
) -> tuple[Any, tuple[KeyValueState, ...]]:
    """Read columns after those that are cached.

    Args:
        backbone: The model.
        columns: Embeddings.
        past: What was cached of the columns before; empty without any.
        caches: Whether to return what is cached after them.
        hidden_states: Whether the output has the last hidden states.
        mask: 0 at cached and new columns that are not there; None where all are.
        positions: Of the new columns, where rows differ.

    Returns:
        The model's output, and the layers with the new columns (empty without ``caches``).
    """
    model = cast("Any", backbone)
    options: dict[str, Any] = {"use_cache": False}
    cache = None
    if caches or past:
        cache = _empty_cache()
        for number, layer in enumerate(past):
            cache.update(layer.key, layer.value, number)
        options = {"use_cache": True, _cache_argument(model): cache}
    if mask is not None:
        options |= {"attention_mask": mask, "position_ids": positions}
    output = model(inputs_embeds=columns, output_hidden_states=hidden_states, **options)
    if cache is None or not caches:
        return output, ()
    return output, tuple(KeyValueState(key=layer.keys, value=layer.values) for layer in cache.layers)


def _empty_cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()


def _cache_argument(model: Any) -> str:
    """The name of the cache among a model's arguments, which transformers 5.24 has changed."""
    bare = model.get_base_model() if hasattr(model, "peft_config") else model
    return "cache" if "cache" in inspect.signature(bare.forward).parameters else "past_key_values"
