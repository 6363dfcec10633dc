"""YOCO (Sun et al. 2024, arXiv:2405.05254): a decoder that caches keys and values once.

The first half of the blocks, the self-decoder, mixes tokens with a state of constant size. One cache of keys and
values is made of its output. The other half, the cross-decoder, reads that cache and keeps nothing of its own, so it is
run for the columns whose logits are wanted and no others.
"""

from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.layers.batch_layout import AttentionMask, BatchLayout
from retentive.layers.block import Block
from retentive.layers.mixers.key_value_cache import KeyValueState
from retentive.layers.mixers.shared_cache_attention import SharedKeyValues
from retentive.layers.token_place import PLAIN, StepContext
from retentive.models.base import DecoderModel
from retentive.models.calls import ModelCall
from retentive.models.decoder import blocks_of
from retentive.models.layer_states import check_config, check_dtypes, check_facts, layer_facts, state_of_kind
from retentive.models.yoco.config import YocoConfig
from retentive.shapes import Hidden
from retentive.state import ModelState, RecurrentState


class Yoco(DecoderModel):
    """The self-decoder, the cache that is made of its output, and the cross-decoder.

    The ``layers`` of its state are those of the self-decoder and, last, the one cache of the cross-decoder.
    """

    config: YocoConfig
    is_plain_decoder = False
    stepped = ("decoder", "key_values")

    def __init__(self, config: YocoConfig) -> None:
        """Make the model that the config describes."""
        super().__init__(config)
        self.key_values = SharedKeyValues(config.cross_attention, config.decoder.norm)
        self.fill_own()

    def fill_own(self) -> None:
        """See `DecoderModel.fill_own`."""
        for projection in self.key_values.input_projections():
            for rows in projection.parts().values():  # as every projection that a mixer reads with
                if self.config.initialisation == "xavier":
                    nn.init.xavier_uniform_(rows, gain=2**-2.5)
                else:
                    nn.init.normal_(rows, std=0.02)

    @property
    def _halves(self) -> tuple[list[Block], list[Block]]:
        """The blocks of the self-decoder and of the cross-decoder."""
        blocks = blocks_of(self.decoder)
        return blocks[: self.config.num_self_layers], blocks[self.config.num_self_layers :]

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> ModelState:
        """What ``state=None`` means, as a value."""
        whole = self.decoder.initial_state(batch_size, device)
        # That of the first layer of the cross-decoder is the empty cache.
        return self._state(whole.layers[: self.config.num_self_layers + 1], whole.position)

    def hidden_states(self, call: ModelCall) -> tuple[Hidden, ModelState]:
        """Run the cross-decoder only for the columns whose logits are wanted: with labels all of them."""
        tokens, state = call.tokens, call.state
        if state is not None:
            self.check_state(state)
        position = None if state is None else state.position
        layout = self.decoder.layout(tokens, position, mask=call.mask, starts=call.starts)
        through = partial(self._through, wanted=call.columns_to_read_out)
        return self.decoder(self.decoder.embed(tokens, layout), state, layout, through)

    def check_state(self, state: object) -> None:
        """Refuse a state that is not of a model of this config; see `LanguageModel.check_state`."""
        held = state_of_kind(state, ModelState, "a model of this config")
        check_facts(layer_facts(self.config.decoder.mixers[: self.config.num_self_layers + 1], held))
        check_config(self.config, held)
        check_dtypes(self.decoder.dtype, held)

    def step(
        self, tokens: Int[Tensor, "batch"], state: ModelState, context: StepContext = PLAIN
    ) -> tuple[Float[Tensor, "batch vocab"], ModelState]:
        """Read one token of each row; see `LanguageModel.step`."""
        decoder = self.decoder
        self_blocks, cross_blocks = self._halves
        place = context.place(state.position, decoder.rotary, decoder.dtype)
        hidden = decoder.embed_token(tokens, place.positions)
        layers: list[RecurrentState] = []
        for block, before in zip(self_blocks, state.layers[:-1], strict=True):
            hidden, following = block.step(hidden, before, place)
            layers.append(following)
        cache = self.key_values.step(hidden, cast("KeyValueState", state.layers[-1]), place)
        for block in cross_blocks:
            hidden, _ = block.step(hidden, cache, place)
        return decoder.logits(decoder.norm(hidden)), self._state((*layers, cache), place.next_position)

    def _through(
        self, hidden: Hidden, state: ModelState | None, layout: BatchLayout, *, wanted: int
    ) -> tuple[Float[Tensor, "batch columns hidden"], ModelState]:
        """Carry all columns through the self-decoder, and the last ``wanted`` ones through the cross-decoder."""
        hidden, layers = self._run_self_decoder(hidden, state, layout)
        cache = None if state is None else cast("KeyValueState", state.layers[-1])
        read, attention_mask, following = self.key_values(hidden, cache, layout)
        hidden = hidden[:, hidden.shape[1] - wanted :]
        if wanted:
            hidden = self._run_cross_decoder(hidden, read, _last_columns(layout, attention_mask, wanted))
        return hidden, self._state((*layers, following), layout.next_position)

    def _run_self_decoder(
        self, hidden: Hidden, state: ModelState | None, layout: BatchLayout
    ) -> tuple[Hidden, list[RecurrentState]]:
        layers: list[RecurrentState] = []
        for number, block in enumerate(self._halves[0]):
            hidden, following = block(hidden, None if state is None else state.layers[number], layout)
            layers.append(following)
        return hidden, layers

    def _run_cross_decoder(self, hidden: Hidden, cache: KeyValueState, layout: BatchLayout) -> Hidden:
        """Let each block read the cache."""
        for block in self._halves[1]:
            hidden, _ = block(hidden, cache, layout)
        return hidden

    def _state(self, layers: tuple[RecurrentState, ...], position: Int[Tensor, "batch"]) -> ModelState:
        return ModelState(layers=layers, position=position, config=self.config)


def _last_columns(layout: BatchLayout, attention_mask: AttentionMask | None, count: int) -> BatchLayout:
    """The layout of the last columns of a call, with what they may read of the shared cache."""
    if attention_mask is None:  # one token
        return layout
    last, allowed = slice(layout.positions.shape[1] - count, None), attention_mask.allowed
    return BatchLayout(
        positions=layout.positions[:, last],
        next_position=layout.next_position,
        rotary={config: tables.columns(last) for config, tables in layout.rotary.items()},
        attention_mask=AttentionMask(allowed=None if allowed is None else allowed[:, :, last]),
    )
