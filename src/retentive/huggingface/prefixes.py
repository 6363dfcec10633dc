"""What a prefix cache knows of the rows that transformers' ``generate`` begins with."""

from typing import Any

from torch import Tensor

from retentive.config_types import check_kind
from retentive.generation.neighbours.retrieval import Retrieval, Retriever, make_lookup
from retentive.generation.prefixes import PrefixCache, PrefixReader
from retentive.huggingface.cache import StateCache
from retentive.models.base import DecoderModel


def cache_after_prefixes(
    model: DecoderModel,
    retriever: Retriever | Retrieval | None,
    prefix_cache: PrefixCache,
    input_ids: Tensor | None,
    options: dict[str, Any],
) -> StateCache | None:
    """Read all columns but the last, after what the cache knows of each row.

    Args:
        model: Reads.
        retriever: Of the wrapped model.
        prefix_cache: Keeps.
        input_ids: Of the call.
        options: The other arguments of the call.

    Returns:
        Where ``generate`` goes on from; None where there is one column.

    Raises:
        ValueError: If the call cannot go on from states of its rows.
    """
    check_kind("prefix_cache", prefix_cache, PrefixCache)
    if not isinstance(input_ids, Tensor):
        raise ValueError("input_ids must be given with a prefix_cache, which knows texts by their ids.")
    config = options.get("generation_config")
    for name in ("num_beams", "num_return_sequences"):
        asked = options.get(name) or getattr(config, name, None) or 1
        if asked != 1:
            raise ValueError(f"{name} must be 1 with a prefix_cache, but is {asked}; repeat the rows of input_ids.")
    lookup = make_lookup(model, retriever)
    if lookup is not None and lookup.reads_between_chunks:
        raise ValueError("every must be None with a prefix_cache here; retentive.generate takes both.")
    before = input_ids[:, :-1]
    if not before.shape[1]:
        return None
    mask = options.get("attention_mask")
    pad = getattr(config, "pad_token_id", None) if options.get("pad_token_id") is None else options["pad_token_id"]
    if mask is None and pad is not None and bool((input_ids == pad).any()):
        raise ValueError(
            f"attention_mask must be given with a prefix_cache where rows hold pad_token_id = {pad}, but is None; the "
            "tokenizer returns it."
        )
    real = None if mask is None or bool((mask != 0).all()) else (mask[:, :-1] != 0).to(before.device)
    rows = [row if real is None else row[real[number]] for number, row in enumerate(before)]
    state = PrefixReader(model, prefix_cache, lookup).states_after([row.tolist() for row in rows])
    cache = StateCache()
    cache.advance(state, before.shape[1], None if real is None else real)
    return cache
