"""The one decoder behind every family: embedding, blocks, norm, head."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.config_types import check_types
from retentive.layers.batch_layout import BatchLayout, make_layout
from retentive.layers.block import Block, BoundBlock, MixerConfig, carried_by, state_with
from retentive.layers.bound import Apply, bind_tall
from retentive.layers.embedding import Embedding, EmbeddingConfig, initialise_embedding
from retentive.layers.feed_forward import FeedForward, FeedForwardConfig
from retentive.layers.mixers.attention import Attention
from retentive.layers.norm import Norm, NormConfig
from retentive.layers.places import Places
from retentive.ops.cross_entropy import linear_cross_entropy
from retentive.shapes import Hidden, Logits, TokenMask, Tokens
from retentive.state import ModelState, RecurrentState


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The parts of a decoder; a family's flat config makes one.

    Attributes:
        embedding: Tables of tokens and learned positions.
        mixer: Attention or retention; every block has one of this shape.
        feed_forward: The other half of a block.
        norm: Norm before each half.
        num_layers: Blocks.
        final_norm: Whether the last block's output is normalised before the head.
        tie_embeddings: Whether the head is the token table.
        head_bias: Whether the head has a bias.
        dropout: Share of the embedding and of each half's output dropped in training.
        initialisation: ``xavier`` is torchscale's for RetNet: Xavier with gain ``2 ** -2.5`` for what a mixer reads and
            ``2 ** -1`` for what it writes; ``normal`` is GPT-2's: standard deviation 0.02, divided by
            ``(2 * num_layers) ** 0.5`` for what each half writes.
        residual: ``pre_norm`` normalises what each half reads; ``deepnorm`` normalises the sum of what it writes and
            ``(2 * num_layers) ** 0.25`` times the residual stream, and makes values, outputs and feed-forwards smaller
            by ``(8 * num_layers) ** -0.25`` at the start (arXiv:2203.00555).
    """

    embedding: EmbeddingConfig
    mixer: MixerConfig
    feed_forward: FeedForwardConfig
    norm: NormConfig
    num_layers: int
    final_norm: bool
    tie_embeddings: bool
    head_bias: bool
    dropout: float
    initialisation: Literal["xavier", "normal"]
    residual: Literal["pre_norm", "deepnorm"] = "pre_norm"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_types(self)
        if self.num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, but is {self.num_layers}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, but is {self.dropout}.")
        if self.initialisation not in ("xavier", "normal"):
            raise ValueError(f"initialisation must be 'xavier' or 'normal', but is {self.initialisation!r}.")
        if self.tie_embeddings and self.head_bias:
            raise ValueError("head_bias must be False with tie_embeddings: a tied head is the token table alone.")
        if self.residual not in ("pre_norm", "deepnorm"):
            raise ValueError(f"residual must be 'pre_norm' or 'deepnorm', but is {self.residual!r}.")

    @property
    def residual_scale(self) -> float | None:
        """What the residual stream is multiplied by before each sum; None where sums are not normalised."""
        return None if self.residual == "pre_norm" else (2 * self.num_layers) ** 0.25


BoundDecoder = Callable[[Tensor, ModelState], tuple[Tensor, ModelState]]
"""From the next token of each row and the state to the logits of the one after it, and the new state."""


class Decoder(nn.Module):
    """Embedding, blocks, norm and head; `forward` is the middle, between the embedding and the head."""

    def __init__(self, config: DecoderConfig) -> None:
        """Make and initialise the parts."""
        super().__init__()
        self.config = config
        self.rotary = config.mixer.rotary
        hidden_size = config.embedding.hidden_size
        self.embedding = Embedding(config.embedding)
        self.embedding_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config.mixer, config.feed_forward, config.norm, config.dropout, config.residual_scale)
            for _ in range(config.num_layers)
        )
        self.norm = Norm(hidden_size, config.norm) if config.final_norm else nn.Identity()
        self.head = (
            None
            if config.tie_embeddings
            else nn.Linear(hidden_size, config.embedding.vocab_size, bias=config.head_bias)
        )
        initialise(self)

    def layout(
        self,
        position: Tensor | None,
        batch: int,
        time: int,
        *,
        mask: TokenMask | None = None,
        starts: TokenMask | None = None,
    ) -> BatchLayout:
        """Place the tokens of one call; see `make_layout`."""
        weight = self.embedding.tokens.weight
        return make_layout(
            position,
            batch,
            time,
            mask=mask,
            starts=starts,
            rotary=self.rotary,
            device=weight.device,
            dtype=weight.dtype,
        )

    def embed(self, tokens: Tokens, layout: BatchLayout) -> Hidden:
        """The residual stream before the first block."""
        return self.embedding_dropout(self.embedding(tokens, layout.positions))

    def forward(self, hidden: Hidden, state: ModelState | None, layout: BatchLayout) -> tuple[Hidden, ModelState]:
        """Run the blocks after ``state`` and normalise; return what the head reads, and the new state."""
        states: list[RecurrentState] = []
        for index, block in enumerate(self.blocks):
            hidden, following = block(hidden, None if state is None else state.layers[index], layout)
            states.append(following)
        return self.norm(hidden), ModelState(layers=tuple(states), position=layout.next_position, config=self.config)

    def bound(self) -> BoundDecoder | None:
        """From token to logits over the present parameters, see `retentive.layers.bound`; None where it cannot be."""
        blocks = self.bound_blocks()
        if blocks is None:
            return None
        norm, head = self.bound_norm(), self.bound_head()
        embedding, weight = self.embedding, self.embedding.tokens.weight
        places = Places(self.rotary, weight.device, weight.dtype)

        def apply(tokens: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
            positions, following, rotation = places.after(state.position)
            hidden = embedding(tokens[:, None], positions)[:, 0]
            states: list[RecurrentState] = []
            for block, before in zip(blocks, state.layers, strict=True):
                hidden, carried = block(hidden, carried_by(before), rotation)
                states.append(state_with(carried, following))
            return head(norm(hidden)), ModelState(layers=tuple(states), position=following, config=self.config)

        return apply

    def bound_blocks(self) -> list[BoundBlock] | None:
        """The blocks' functions of one token; None if one has none."""
        blocks = [bound for block in blocks_of(self) if (bound := block.bound()) is not None]
        return blocks if len(blocks) == len(self.blocks) else None

    def bound_norm(self) -> Apply:
        """What stands between the last block and the head, as a function of one token."""
        return self.norm.bound() if isinstance(self.norm, Norm) else self.norm

    def bound_head(self) -> Apply:
        """`logits` as a function of one token."""
        plain = self.head is None or type(self.head) is nn.Linear
        return bind_tall(self.head_weight, self.head_bias) if plain else self.logits

    @property
    def dtype(self) -> torch.dtype:
        """That of the embeddings, and so of the residual stream."""
        return self.embedding.tokens.weight.dtype

    @property
    def head_weight(self) -> Float[Tensor, "vocab hidden"]:
        """The matrix that turns the residual stream into logits."""
        return self.embedding.tokens.weight if self.head is None else self.head.weight

    @property
    def head_bias(self) -> Float[Tensor, "vocab"] | None:
        """The bias of the head, where it has one."""
        return None if self.head is None else self.head.bias

    def logits(self, hidden: Hidden) -> Logits:
        """Unnormalised log-probabilities of the next token."""
        return nn.functional.linear(hidden, self.head_weight, self.head_bias)

    def loss(self, hidden: Hidden, labels: Tokens) -> Float[Tensor, ""]:
        """Mean cross-entropy over labels that are not -100, without all logits at once."""
        return linear_cross_entropy(hidden.flatten(0, 1), self.head_weight, labels.flatten(), self.head_bias)

    def initial_state(self, batch: int, device: torch.device | None = None) -> ModelState:
        """What ``state=None`` means, as a value."""
        weight = self.embedding.tokens.weight
        device = weight.device if device is None else device
        layers = tuple(block.mixer.initial_state(batch, device, weight.dtype) for block in blocks_of(self))
        position = torch.zeros(batch, dtype=torch.long, device=device)
        return ModelState(layers=layers, position=position, config=self.config)


def blocks_of(decoder: Decoder) -> list[Block]:
    """The blocks, with their type."""
    return [cast("Block", block) for block in decoder.blocks]


def initialise(decoder: Decoder) -> None:
    """Fill all parameters by the config's rule; see `DecoderConfig`."""
    initialise_embedding(decoder.embedding)
    if decoder.head is not None:
        nn.init.normal_(decoder.head.weight, std=decoder.config.embedding.hidden_size**-0.5)
    for linear in (module for module in decoder.modules() if isinstance(module, nn.Linear)):
        if isinstance(linear.bias, nn.Parameter):
            nn.init.zeros_(linear.bias)
    for block in blocks_of(decoder):
        if decoder.config.initialisation == "xavier":
            _initialise_xavier(block)
        else:
            _initialise_normal(block, decoder.config.num_layers)
        if decoder.config.residual == "deepnorm":
            _shrink(block, (8 * decoder.config.num_layers) ** -0.25)


def _initialise_xavier(block: Block) -> None:
    mixer, feed_forward = block.mixer, block.feed_forward
    parts = (mixer.query_size, mixer.key_size, mixer.value_size) if isinstance(mixer, Attention) else mixer.sizes
    for rows in mixer.input_proj.weight.split(parts):
        nn.init.xavier_uniform_(rows, gain=2**-2.5)
    nn.init.xavier_uniform_(mixer.output_proj.weight, gain=2**-1)
    for rows in _branches(feed_forward):
        nn.init.kaiming_uniform_(rows, a=5**0.5)
    nn.init.kaiming_uniform_(feed_forward.output_proj.weight, a=5**0.5)


def _initialise_normal(block: Block, num_layers: int) -> None:
    for linear in (block.mixer.input_proj, block.feed_forward.input_proj):
        nn.init.normal_(linear.weight, std=0.02)
    for linear in (block.mixer.output_proj, block.feed_forward.output_proj):
        nn.init.normal_(linear.weight, std=0.02 / (2 * num_layers) ** 0.5)


@torch.no_grad()
def _shrink(block: Block, factor: float) -> None:
    """DeepNorm's start: what values, outputs and feed-forwards add is small beside the residual stream."""
    mixer, feed_forward = block.mixer, block.feed_forward
    parts = (mixer.query_size, mixer.key_size, mixer.value_size) if isinstance(mixer, Attention) else mixer.sizes
    values = mixer.input_proj.weight.split(parts)[2]
    for weight in (values, mixer.output_proj.weight, feed_forward.input_proj.weight, feed_forward.output_proj.weight):
        weight.mul_(factor)


def _branches(feed_forward: FeedForward) -> tuple[Tensor, ...]:
    return feed_forward.input_proj.weight.split(feed_forward.config.intermediate_size)
