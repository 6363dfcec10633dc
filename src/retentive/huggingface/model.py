"""Every family as one transformers model."""

from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from retentive.generation.neighbours.retrieval import Retrieval, Retriever, make_lookup
from retentive.generation.prefixes import PrefixCache
from retentive.huggingface.cache import CACHE_NAME, CACHE_NAMES, StateCache, advanced_cache
from retentive.huggingface.columns import (
    check_after_cache,
    check_ends_with_tokens,
    one_cache,
    real_columns,
    without_pads,
)
from retentive.huggingface.config import RetentiveConfig
from retentive.huggingface.embedded import read_embedded
from retentive.huggingface.hidden_states import kept_hidden_states
from retentive.huggingface.offloading import keep_own_tensors
from retentive.huggingface.positions import document_starts
from retentive.huggingface.prefixes import cache_after_prefixes
from retentive.huggingface.pretrained import RetentivePreTrainedModel, refuse_attentions
from retentive.models.base import DecoderModel
from retentive.models.protocol import FamilyConfig, ModelOutput
from retentive.ops.cross_entropy import IGNORED
from retentive.private_apis import keep_cache_in_output
from retentive.shapes import Hidden, Logits, TokenMask, Tokens
from retentive.state import ModelState

# The name must hold none of transformers' own (mamba, rwkv, xlstm, minimax, reformer, xlnet): they change the cache.


class RetentiveForCausalLM(RetentivePreTrainedModel, GenerationMixin):
    """A language model of any family, with the call, the training and the generation of transformers.

    Attributes:
        model: The model itself, which `save_model`, `generate` and all else of this library take.
        retriever: For a RETRO: finds the neighbours of each chunk that a call ends, a `Retriever` or a `Retrieval`;
            None reads none. It is not saved.
    """

    # A state cannot be rolled back: assisted generation is refused by name.
    _is_stateful = True
    # The loss of a batch can be summed over a whole optimizer step; see `num_items_in_batch`.
    accepts_loss_kwargs = True

    def __init__(self, config: RetentiveConfig | FamilyConfig) -> None:
        """Make the model that the config describes, of a family or of transformers.

        Raises:
            ValueError: If it is an encoder.
        """
        super().__init__(config)
        # Only of models in this table does `Trainer` shift the labels where it smooths them.
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault(self.config.model_type, type(self).__name__)
        self.retriever: Retriever | Retrieval | None = None
        self.post_init()

    @classmethod
    def of(cls, model: DecoderModel) -> "RetentiveForCausalLM":
        """Wrap a model that is there already: the same weights, not a copy."""
        with torch.device("meta"):
            wrapped = cls(RetentiveConfig(model.config))
        wrapped.model = model
        wrapped.train(model.training)
        return wrapped

    def forward(
        self,
        input_ids: Tokens | None = None,
        attention_mask: Shaped[Tensor, "batch longer"] | None = None,
        past_key_values: StateCache | None = None,
        inputs_embeds: Hidden | None = None,
        labels: Tokens | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Int[Tensor, "kept"] = 0,
        num_items_in_batch: Tensor | int | None = None,
        neighbours: Int[Tensor, "batch ..."] | None = None,
        neighbour_mask: Bool[Tensor, "batch ..."] | None = None,
        cache: StateCache | None = None,
        position_ids: Int[Tensor, "rows columns"] | None = None,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Read tokens after what is in the cache.

        Args:
            input_ids: Token ids.
            attention_mask: 0 at padding, wherever it stands; of these columns, or of those in the cache too.
            past_key_values: `cache` by its name in transformers before 5.24.
            inputs_embeds: In place of ``input_ids``, rows of the token table or what stands in for them.
            labels: The ``input_ids`` themselves, -100 where none counts, nor does a token after a column of padding.
            use_cache: Return a cache; None does what the config says, or else returns one outside of training.
            output_attentions: Refused: retention has no attention weights, and no family keeps them.
            output_hidden_states: Return what each block and the head read; where ``model.is_plain_decoder``.
            return_dict: False gives a tuple.
            logits_to_keep: Columns from the end, or indices of columns, whose logits are wanted; 0 is all.
            num_items_in_batch: Labels of all accumulated batches: this one's mean gets its share. None takes the mean.
            neighbours: For a RETRO, as its own call takes them.
            neighbour_mask: See there.
            cache: Where an earlier call stopped; its state is replaced. None starts new sequences.
            position_ids: Count the real columns of each row; a document begins where they are 0 again.

        Raises:
            ValueError: If something is asked for that cannot be, or shapes do not fit.
        """
        refuse_attentions(output_attentions)
        keep_own_tensors(self)
        cache = one_cache(cache, past_key_values)
        rows, columns = _one_of(input_ids, inputs_embeds).shape[:2]
        given_mask = real_columns(attention_mask, cache, rows, columns)
        mask, input_ids = without_pads(self.config, input_ids, given_mask)
        starts = document_starts(position_ids, mask, cache, rows, columns)
        wanted = logits_to_keep if labels is None and isinstance(logits_to_keep, int) and logits_to_keep else None
        beside = _given(neighbours=neighbours, neighbour_mask=neighbour_mask)
        read = self._read if inputs_embeds is None else partial(read_embedded, self.model)
        text, state = _one_of(input_ids, inputs_embeds), None if cache is None else cache.state
        with kept_hidden_states(self.model, self._asked("output_hidden_states", output_hidden_states)) as hidden_states:
            output = read(text, state, {"mask": mask, "starts": starts, "logits_to_keep": wanted}, beside)
        loss = None if labels is None else _loss(output.logits, labels, mask, num_items_in_batch)
        is_kept = self._asked("use_cache", use_cache, otherwise=not self.training)
        cache = advanced_cache(cache, is_kept, output.state, columns, given_mask)
        kept = _kept(output.logits, logits_to_keep if wanted is None else 0)
        fields: dict[str, Any] = {"loss": loss, "logits": kept, CACHE_NAME: cache}
        result = CausalLMOutputWithPast(**fields, hidden_states=tuple(hidden_states) or None)
        return result.to_tuple() if return_dict is False else result

    def _asked(self, name: str, given: bool | None, *, otherwise: bool = False) -> bool:
        """An option of a call; where the call leaves it out, that of the config, or else ``otherwise``."""
        chosen = getattr(self.config, name, None) if given is None else given
        return otherwise if chosen is None else bool(chosen)

    def _read(
        self, tokens: Tokens, state: ModelState | None, call: dict[str, Any], beside: dict[str, Any]
    ) -> ModelOutput:
        lookup = make_lookup(self.model, self.retriever)
        if lookup is not None and not beside:
            if call["starts"] is not None:
                raise ValueError(
                    "position_ids must begin no document where a retriever looks for neighbours, which it does for one "
                    "document a row; give one document a row, or neighbours."
                )
            state = lookup.begin(tokens, call["mask"], state)
            beside = _given(neighbours=lookup.neighbours(tokens, call["mask"], state))
        return self.model(tokens, state, **call, **beside)

    def generate(
        self, inputs: Tensor | None = None, *args: Any, prefix_cache: PrefixCache | None = None, **kwargs: Any
    ) -> Any:
        """Write tokens as every transformers model does; see `GenerationMixin.generate`.

        Args:
            inputs: See there, like all that is not named here.
            args: See there.
            prefix_cache: Has the states of texts that begin like these rows, and keeps those of these.
            kwargs: See there.

        Raises:
            ValueError: If a row ends with padding, after which transformers goes on as if it were a token; if a cache
                is given that has read as many columns as there are, or more, or other padding than the mask tells of,
                or is given with a prefix cache.
        """
        cache = one_cache(*(kwargs.pop(name, None) for name in CACHE_NAMES))
        ids = kwargs.get("input_ids") if inputs is None else inputs
        options = {"generation_config": args[0] if args else self.generation_config, **kwargs}
        check_ends_with_tokens(ids, options)
        if prefix_cache is not None:
            if cache is not None:
                raise ValueError("prefix_cache must be None where a cache is given, which has read the begin already.")
            cache = cache_after_prefixes(self.model, self.retriever, prefix_cache, ids, options)
        if cache is not None:
            given = [inputs, *(kwargs.get(name) for name in ("attention_mask", "input_ids", "inputs_embeds"))]
            check_after_cache(cache, kwargs.get("attention_mask"), [one.shape[1] for one in given if one is not None])
            kwargs[CACHE_NAME] = cache
        generate: Any = super().generate  # pyright: ignore[reportAttributeAccessIssue]
        return generate(inputs, *args, **kwargs)

    def prepare_inputs_for_generation(
        self, *args: Any, inputs_embeds: Hidden | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return what `forward` is given for the next tokens."""
        prepare: Any = super().prepare_inputs_for_generation  # pyright: ignore[reportAttributeAccessIssue]
        inputs = prepare(*args, inputs_embeds=inputs_embeds, **kwargs)
        # The first releases of transformers 5 pass places that a state knows by itself; all of them pass on the
        # tokenizer that finds `stop_strings`, which no forward reads.
        for name in ("cache_position", "tokenizer", "assistant_tokenizer"):
            inputs.pop(name, None)
        return inputs

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *_: Any, **__: Any
    ) -> Any:
        """What `generate` carries: the state, whatever kind of cache it would have made."""
        kind = generation_config.cache_implementation
        if kind is not None and any(word in kind for word in ("offloaded", "quantized")):
            raise ValueError(
                f"cache_implementation must be left out, for a state is neither offloaded nor quantized, but is "
                f"{kind!r}."
            )
        given = one_cache(*(model_kwargs.pop(name, None) for name in CACHE_NAMES))
        if given is not None:
            keep_cache_in_output(given)
            model_kwargs[CACHE_NAME] = given
        elif generation_config.use_cache is not False:
            model_kwargs[CACHE_NAME] = StateCache()

    def get_output_embeddings(self) -> nn.Module | None:
        """The head; None where it is the table of tokens."""
        return self.model.decoder.head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another head in place."""
        self.model.decoder.head = cast("nn.Linear", new_embeddings)


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def _one_of(input_ids: Tokens | None, inputs_embeds: Hidden | None) -> Tensor:
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("either input_ids or inputs_embeds must be given, and not both.")
    return cast("Tensor", input_ids if inputs_embeds is None else inputs_embeds)


def _kept(logits: Logits | None, logits_to_keep: int | Tensor) -> Float[Tensor, "batch kept vocab"]:
    assert logits is not None
    if isinstance(logits_to_keep, Tensor):
        return logits[:, logits_to_keep]
    return logits[:, -logits_to_keep:] if logits_to_keep else logits


def _loss(
    logits: Logits | None, labels: Tokens, mask: TokenMask | None, num_items_in_batch: Tensor | int | None
) -> Float[Tensor, ""]:
    """Cross-entropy of each next token, in nats; the mean, or the sum over ``num_items_in_batch``."""
    assert logits is not None
    if labels.shape != logits.shape[:2]:
        raise ValueError(
            f"labels must have the shape of input_ids, {tuple(logits.shape[:2])}, but have {tuple(labels.shape)}."
        )
    if labels.is_floating_point():
        raise ValueError(f"labels must be token ids, whole numbers, but are {labels.dtype}.")
    asked = following = labels[:, 1:].long()
    if mask is not None:
        # Padding predicts nothing: the first token of a row that begins with padding has no loss.
        following = asked.where(mask[:, :-1], IGNORED)
    wide = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    try:
        whole = nn.functional.cross_entropy(
            wide.flatten(0, 1), following.flatten(), ignore_index=IGNORED, reduction="sum"
        )
    except IndexError as error:
        raise ValueError(
            f"every label must be -100 or from 0 to vocab_size - 1 = {logits.shape[-1] - 1}, but one is not ({error})."
        ) from error
    counted = (following != IGNORED).sum().clamp_min(1)
    if num_items_in_batch is None:
        return whole / counted
    # `Trainer` has counted every label, those after padding too: what this call may add is the share of its labels.
    share = (asked != IGNORED).sum() / torch.as_tensor(num_items_in_batch, device=wide.device).clamp_min(1)
    return whole / counted * share
