"""The one decoder behind every family: embedding, blocks, norm, head."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from retentive.config_types import check_kind, check_types
from retentive.layers.batch_layout import BatchLayout, RotaryConfig, make_layout
from retentive.layers.block import Block
from retentive.layers.embedding import Embedding, EmbeddingConfig, initialise_embedding
from retentive.layers.feed_forward import FeedForward, FeedForwardConfig
from retentive.layers.mixers.protocol import MixerConfig
from retentive.layers.norm import Norm, NormConfig
from retentive.layers.parameters.reset import reset_parts
from retentive.layers.text_parts import Exchange
from retentive.layers.token_place import PLAIN, StepContext
from retentive.ops.cross_entropy import IGNORED, linear_cross_entropy
from retentive.ops.lean.plain import is_plain
from retentive.ops.lean.tall_linear import tall_linear
from retentive.shapes import Hidden, HiddenRows, TokenFlags, Tokens
from retentive.state import ModelState, RecurrentState


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The parts of a decoder; a family's flat config makes one.

    Attributes:
        embedding: Tables of tokens and learned positions.
        mixers: The mixer of each block, from the first to the last.
        feed_forward: The other half of a block.
        norm: Norm before each half.
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
    mixers: tuple[MixerConfig, ...]
    feed_forward: FeedForwardConfig
    norm: NormConfig
    final_norm: bool
    tie_embeddings: bool
    head_bias: bool
    dropout: float
    initialisation: Literal["xavier", "normal"]
    residual: Literal["pre_norm", "deepnorm"] = "pre_norm"

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if not self.mixers:
            raise ValueError("num_layers must be at least 1, but is 0: a decoder has a mixer for each block.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, but is {self.dropout}.")
        if self.initialisation not in ("xavier", "normal"):
            raise ValueError(f"initialisation must be 'xavier' or 'normal', but is {self.initialisation!r}.")
        if self.tie_embeddings and self.head_bias:
            raise ValueError("head_bias must be False with tie_embeddings: a tied head is the token table alone.")
        if self.residual not in ("pre_norm", "deepnorm"):
            raise ValueError(f"residual must be 'pre_norm' or 'deepnorm', but is {self.residual!r}.")

    @property
    def num_layers(self) -> int:
        """Blocks."""
        return len(self.mixers)

    @property
    def num_heads(self) -> int:
        """Heads of the first block's mixer."""
        return self.mixers[0].num_heads

    @property
    def rotary(self) -> tuple[RotaryConfig, ...]:
        """The rotations that some block needs, each once."""
        return tuple(dict.fromkeys(mixer.rotary for mixer in self.mixers if mixer.rotary is not None))

    @property
    def state_is_bounded(self) -> bool:
        """Whether every layer's state stops growing."""
        return all(mixer.state_is_bounded for mixer in self.mixers)

    @property
    def takes_attention_mask(self) -> bool:
        """Whether tokens of every layer read exactly what an attention mask allows."""
        return all(mixer.takes_attention_mask for mixer in self.mixers)

    @property
    def caches_tokens(self) -> bool:
        """Whether some layer's state holds entries of earlier tokens, with a mask over them."""
        return any(mixer.takes_attention_mask for mixer in self.mixers)

    @property
    def residual_scale(self) -> float | None:
        """Factor of the residual stream in each sum; None where sums are not normalised."""
        return None if self.residual == "pre_norm" else (2 * self.num_layers) ** 0.25


Passage = Callable[[Any, Any, Any], tuple[Any, Any]]
"""Carries the residual stream through the blocks after a state; see `Decoder.forward`."""


class Decoder(nn.Module):
    """Embedding, blocks, norm and head; `forward` runs the blocks and the norm.

    Attributes:
        exchange: The processes that each read a part of every call's text; None reads whole texts.
    """

    exchange: Exchange | None = None
    stepped = ("blocks",)
    """See `Block`."""

    def __init__(self, config: DecoderConfig) -> None:
        """Make and initialise the parts."""
        check_kind("config", config, DecoderConfig)
        super().__init__()
        self.config = config
        self.rotary = config.rotary
        hidden_size = config.embedding.hidden_size
        self.embedding = Embedding(config.embedding)
        self.embedding_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(mixer, config.feed_forward, config.norm, config.dropout, config.residual_scale)
            for mixer in config.mixers
        )
        self.norm = Norm(hidden_size, config.norm) if config.final_norm else nn.Identity()
        self.head = (
            None
            if config.tie_embeddings
            else nn.Linear(hidden_size, config.embedding.vocab_size, bias=config.head_bias)
        )
        _fill(self)

    def reset_parameters(self) -> None:
        """Fill all parameters anew, as construction does; see `DecoderConfig`."""
        reset_parts(self)
        _fill(self)

    def layout(
        self,
        read: Shaped[Tensor, "batch time *rest"],
        position: Int[Tensor, "batch"] | None,
        *,
        mask: TokenFlags = None,
        starts: TokenFlags = None,
    ) -> BatchLayout:
        """Place the tokens that are read in one call, given as ids or embeddings; see `make_layout`."""
        return make_layout(
            position,
            *read.shape[:2],
            mask=mask,
            starts=starts,
            rotary=self.rotary,
            device=read.device,
            dtype=self.dtype,
            exchange=self.exchange,
        )

    def embed(self, tokens: Tokens, layout: BatchLayout) -> Hidden:
        """The residual stream before the first block."""
        return self.embedding_dropout(self.embedding(tokens, layout.positions))

    def forward(
        self, hidden: Hidden, state: ModelState | None, layout: BatchLayout, through: Passage | None = None
    ) -> tuple[Float[Tensor, "batch columns hidden"], Any]:
        """Run the blocks after ``state`` and normalise; return what the head reads, and the new state.

        Args:
            hidden: The residual stream before the first block.
            state: Where the last call stopped; None is the initial state.
            layout: Where each token stands.
            through: Runs the blocks for a family that does more between them, and returns the columns that are wanted
                and what is returned in place of the state. (A hook of the decoder acts when the decoder is called, so
                its blocks are never run from outside.)
        """
        if through is not None:
            hidden, beside = through(hidden, state, layout)
            return self.norm(hidden), beside
        states: list[RecurrentState] = []
        for index, block in enumerate(self.blocks):
            hidden, following = block(hidden, None if state is None else state.layers[index], layout)
            states.append(following)
        return self.norm(hidden), ModelState(layers=tuple(states), position=layout.next_position, config=self.config)

    def step(
        self, tokens: Int[Tensor, "batch"], state: ModelState, context: StepContext = PLAIN
    ) -> tuple[Float[Tensor, "batch vocab"], ModelState]:
        """Read one token of each row after ``state``: its logits, and the new state.

        Args:
            tokens: Token ids.
            state: Where the last call stopped.
            context: How the step is run.
        """
        place = context.place(state.position, self.rotary, self.dtype)
        hidden = self.embed_token(tokens, place.positions)
        layers: list[RecurrentState] = []
        for block, before in zip(blocks_of(self), state.layers, strict=True):
            hidden, following = block.step(hidden, before, place)
            layers.append(following)
        following = ModelState(layers=tuple(layers), position=place.next_position, config=self.config)
        return self.logits(self.norm(hidden)), following

    def embed_token(
        self, tokens: Int[Tensor, "batch"], positions: Int[Tensor, "#batch 1"]
    ) -> Float[Tensor, "batch hidden"]:
        """`embed` for one token of each row."""
        return self.embedding_dropout(self.embedding(tokens[:, None], positions)[:, 0])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the embeddings, and so of the residual stream."""
        return self.embedding.dtype

    def logits(self, hidden: HiddenRows) -> Float[Tensor, "*tokens vocab"]:
        """Unnormalised log-probabilities of the next token."""
        head = self._plain_head()
        return self._called_head()(hidden) if head is None else tall_linear(hidden, *head)

    def loss(self, hidden: Hidden, labels: Tokens) -> Float[Tensor, ""]:
        """Mean cross-entropy over labels that are not -100, without all logits at once where the head is plain."""
        head, rows, targets = self._plain_head(), hidden.flatten(0, 1), labels.flatten()
        if head is not None:
            weight, bias = head
            return linear_cross_entropy(rows, weight, targets, bias)
        logits: Tensor = self._called_head()(rows)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        return total / (targets != IGNORED).sum().clamp_min(1)

    def _plain_head(self) -> tuple[Float[Tensor, "vocab hidden"], Float[Tensor, "vocab"] | None] | None:
        """Weight and bias of the head; None if the head does more than a linear layer and has to be called."""
        if self.head is not None:
            return (self.head.weight, self.head.bias) if is_plain(self.head) else None
        table = self.embedding.tokens
        if is_plain(table):
            return table.weight, None
        if hasattr(table, "project"):
            return None
        # The head shares what the table looks up, which an adapter or offloading may change.
        return table(torch.arange(self.config.embedding.vocab_size, device=table.weight.device)), None

    def _called_head(self) -> Callable[[Tensor], Tensor]:
        """The head, where it is no plain linear layer: a module of its own, or a table that is one of whole numbers."""
        return cast("Any", self.embedding.tokens).project if self.head is None else self.head

    def initial_state(self, batch: int, device: torch.device | None = None) -> ModelState:
        """What ``state=None`` means, as a value."""
        device = self.embedding.tokens.weight.device if device is None else device
        layers = tuple(block.mixer.initial_state(batch, device, self.dtype) for block in blocks_of(self))
        position = torch.zeros(batch, dtype=torch.long, device=device)
        return ModelState(layers=layers, position=position, config=self.config)


def blocks_of(decoder: Decoder) -> list[Block]:
    """The blocks, with their type."""
    return cast("list[Block]", list(decoder.blocks))


def _fill(decoder: Decoder) -> None:
    """Fill parameters by the config's rule, after those of which it says nothing; see `DecoderConfig`."""
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
    for projection in block.mixer.input_projections():
        for rows in projection.parts().values():
            nn.init.xavier_uniform_(rows, gain=2**-2.5)
    nn.init.xavier_uniform_(block.mixer.output_proj.weight, gain=2**-1)
    for rows in _branches(block.feed_forward):
        nn.init.kaiming_uniform_(rows, a=5**0.5)
    nn.init.kaiming_uniform_(block.feed_forward.output_proj.weight, a=5**0.5)


def _initialise_normal(block: Block, num_layers: int) -> None:
    inputs = [projection.linear for projection in block.mixer.input_projections()]
    for linear in (*inputs, block.feed_forward.input_proj):
        nn.init.normal_(linear.weight, std=0.02)
    for linear in (block.mixer.output_proj, block.feed_forward.output_proj):
        nn.init.normal_(linear.weight, std=0.02 / (2 * num_layers) ** 0.5)


@torch.no_grad()
def _shrink(block: Block, factor: float) -> None:
    """DeepNorm's initialisation: values, outputs and feed-forwards begin small beside the residual stream."""
    feed_forward = block.feed_forward
    values = [
        rows for part in block.mixer.input_projections() for name, rows in part.parts().items() if name == "value"
    ]
    outputs = (block.mixer.output_proj.weight, feed_forward.input_proj.weight, feed_forward.output_proj.weight)
    for weight in (*values, *outputs):
        weight.mul_(factor)


def _branches(feed_forward: FeedForward) -> tuple[Tensor, ...]:
    return feed_forward.input_proj.weight.split(feed_forward.config.intermediate_size)
