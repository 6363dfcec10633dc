"""Every family as one transformers model that labels a whole text."""

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from retentive.huggingface.cache import CACHE_NAME, StateCache, advanced_cache
from retentive.huggingface.columns import one_cache, real_columns, without_pads
from retentive.huggingface.config import RetentiveConfig
from retentive.huggingface.hidden_states import last_real, read_hidden
from retentive.huggingface.offloading import keep_own_tensors
from retentive.huggingface.pretrained import RetentivePreTrainedModel, refuse_attentions
from retentive.models.protocol import FamilyConfig
from retentive.shapes import Tokens


class RetentiveForSequenceClassification(RetentivePreTrainedModel):
    """A language model whose last real token is read out by a linear layer, ``score``.

    Of families that read one token after another, and of recurrent memories. A folder of a language model gives the
    weights of all but the new layer; its head is left out.
    """

    _keys_to_ignore_on_load_unexpected = [r"(^|\.)decoder\.head\."]  # noqa: RUF012 - as transformers declares it

    def __init__(self, config: RetentiveConfig | FamilyConfig) -> None:
        """Make the model that the config describes, with ``config.num_labels`` labels.

        Raises:
            ValueError: If it is an encoder, or of a family that offers its logits alone.
        """
        super().__init__(config)
        family = self.model.config.family
        if not self.model.is_plain_decoder and self.model.recomputes_segments is None:
            raise ValueError(f"config must be of a decoder or of a recurrent memory over one, but is of a {family}.")
        # No gradient would reach it, which wrappers such as `DistributedDataParallel` refuse.
        self.model.decoder.head = None
        self.score = nn.Linear(self.config.hidden_size, self.config.num_labels or 1, bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fill what a folder lacked; the new layer as in other models of transformers."""
        if module is self.score:
            init.normal_(self.score.weight, std=0.02)
        else:
            super()._init_weights(module)

    def forward(
        self,
        input_ids: Tokens,
        attention_mask: Shaped[Tensor, "batch longer"] | None = None,
        past_key_values: StateCache | None = None,
        labels: Shaped[Tensor, "batch *labels"] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        cache: StateCache | None = None,
    ) -> SequenceClassifierOutputWithPast | tuple[Any, ...]:
        """Read texts after what is in the cache, and label each.

        Args:
            input_ids: Token ids.
            attention_mask: 0 at padding, wherever it stands; see `RetentiveForCausalLM.forward`.
            past_key_values: `cache` by its name in transformers before 5.24.
            labels: One number or class a row, or one a label; ``config.problem_type`` says which loss is meant.
            use_cache: Return a cache.
            output_attentions: Refused.
            return_dict: False gives a tuple.
            cache: Where an earlier call stopped; its state is replaced. None starts new sequences.

        Raises:
            ValueError: If something is asked for that cannot be, or shapes do not fit.
        """
        refuse_attentions(output_attentions)
        keep_own_tensors(self)
        cache = one_cache(cache, past_key_values)
        given_mask = real_columns(attention_mask, cache, *input_ids.shape)
        pad = getattr(self.config, "pad_token_id", None)
        if attention_mask is None and pad is not None:
            # As other models of transformers do: rows end where their padding begins.
            given_mask = input_ids != pad
        mask, read = without_pads(self.config, input_ids, given_mask)
        assert read is not None
        hidden, state = read_hidden(self.model, read, None if cache is None else cache.state, mask)
        logits = self.score(last_real(hidden, mask))
        loss = None
        if labels is not None:
            loss_function: Any = self.loss_function
            loss = loss_function(labels=labels, logits=logits, pooled_logits=logits, config=self.config)
        cache = advanced_cache(cache, bool(use_cache), state, input_ids.shape[1], given_mask)
        fields: dict[str, Any] = {"loss": loss, "logits": logits, CACHE_NAME: cache}
        result = SequenceClassifierOutputWithPast(**fields)
        return result.to_tuple() if return_dict is False else result
