"""One block of a decoder: a mixer and a feed-forward, each added to the residual stream."""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from retentive.layers.batch_layout import BatchLayout
from retentive.layers.bound import Apply, has_no_hooks
from retentive.layers.feed_forward import FeedForward, FeedForwardConfig
from retentive.layers.mixers.attention import Attention, AttentionConfig, KeysAndValues, KeyValueState, Recalled
from retentive.layers.mixers.retention import MultiScaleRetention, RetentionConfig, RetentionState
from retentive.layers.norm import Norm, NormConfig
from retentive.ops.lean_linear import is_lean
from retentive.ops.threads import threads_for
from retentive.shapes import Hidden
from retentive.state import RecurrentState

MixerConfig = AttentionConfig | RetentionConfig
Mixer = Attention | MultiScaleRetention

Carried = Tensor | KeyValueState
"""What a bound mixer takes and gives: retention its ``kv``, attention its cache."""

BoundBlock = Callable[[Tensor, Carried, Tensor | None], tuple[Tensor, Carried]]
"""From ``(batch, hidden)``, what the mixer carries and the token's rotation to the output and what it carries then."""


class Block(nn.Module):
    """``x + mixer(norm(x))``, then ``x + feed_forward(norm(x))`` (eq. 9 of arXiv:2307.08621).

    With a ``residual_scale`` a, it is ``norm(a * x + mixer(x))``, then ``norm(a * x + feed_forward(x))``: DeepNorm
    (Wang et al. 2022, arXiv:2203.00555).
    """

    def __init__(
        self,
        mixer: MixerConfig,
        feed_forward: FeedForwardConfig,
        norm: NormConfig,
        dropout: float,
        residual_scale: float | None = None,
    ) -> None:
        """Make the layers; the mixer's config decides between attention and retention."""
        super().__init__()
        self.residual_scale = residual_scale
        self.mixer_norm = Norm(mixer.hidden_size, norm)
        self.mixer = Attention(mixer) if isinstance(mixer, AttentionConfig) else MultiScaleRetention(mixer)
        self.feed_forward_norm = Norm(mixer.hidden_size, norm)
        self.feed_forward = FeedForward(feed_forward)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Hidden,
        state: RecurrentState | None,
        layout: BatchLayout,
        recalled: Recalled | KeysAndValues | None = None,
        between: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Hidden, RecurrentState]:
        """Carry the residual stream through the block.

        Args:
            x: The residual stream.
            state: The mixer's, from the last call; None begins anew.
            layout: Where each token stands.
            recalled: What this block received for earlier tokens, read again, or what it made of it before; for
                attention alone.
            between: Done to the residual stream between the halves, such as letting it read neighbours. (Whoever calls
                the halves instead of the block is not noticed by FSDP, which then has no whole parameters for them.)
        """
        x, following = self.mix(x, state, layout, recalled)
        if between is not None:
            x = between(x)
        return self.feed(x), following

    def mix(
        self,
        x: Hidden,
        state: RecurrentState | None,
        layout: BatchLayout,
        recalled: Recalled | KeysAndValues | None = None,
    ) -> tuple[Hidden, RecurrentState]:
        """The first half: tokens read one another. Arguments are those of `forward`."""
        is_post_norm = self.residual_scale is not None
        read = x if is_post_norm else self.mixer_norm(x)
        if isinstance(self.mixer, Attention):
            again = self._recall(self.mixer, recalled) if isinstance(recalled, Recalled) else recalled
            mixed, following = self.mixer(read, cast("KeyValueState | None", state), layout, again)
        else:
            assert recalled is None, "retention has no keys to recall"
            mixed, following = self.mixer(read, cast("RetentionState | None", state), layout)
        return self._add(x, mixed, self.mixer, self.mixer_norm), following

    def _recall(self, attention: Attention, recalled: Recalled) -> KeysAndValues:
        """Keys and values of what was received for earlier tokens."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and recalled.learns):
            if self.residual_scale is None:
                recalled = replace(recalled, hidden=self.mixer_norm(recalled.hidden))
            return attention.recall(recalled)

    def feed(self, x: Hidden) -> Hidden:
        """The second half: each token by itself."""
        read = x if self.residual_scale is not None else self.feed_forward_norm(x)
        return self._add(x, self.feed_forward(read), self.feed_forward, self.feed_forward_norm)

    def bound(self) -> BoundBlock | None:
        """`forward` for one token over the present parameters, see `retentive.layers.bound`; None if it cannot be."""
        halves = self.bound_halves()
        if halves is None:
            return None
        mix, feed = halves

        def apply(x: Tensor, carried: Carried, rotation: Tensor | None) -> tuple[Tensor, Carried]:
            x, carried = mix(x, carried, rotation)
            return feed(x), carried

        return apply

    def bound_halves(self) -> tuple[BoundBlock, Apply] | None:
        """`mix` and `feed` in the same way, for those who do something between; the second writes over its argument."""
        mix, feed = cast("BoundBlock | None", self.mixer.bound()), self.feed_forward.bound()
        if mix is None or self.residual_scale is not None:
            return None
        mixer_norm, feed_forward_norm = self.mixer_norm.bound(), self.feed_forward_norm.bound()

        def first(x: Tensor, carried: Carried, rotation: Tensor | None) -> tuple[Tensor, Carried]:
            mixed, carried = mix(mixer_norm(x), carried, rotation)
            return x + mixed, carried

        return first, lambda x: x.add_(feed(feed_forward_norm(x)))

    def _add(self, x: Hidden, output: Hidden, layer: nn.Module, norm: Norm) -> Hidden:
        dropped = self.dropout(output) if self.training else output
        return add_to_residual(x, dropped, norm, self.residual_scale, (layer, self.dropout))


def carried_by(state: RecurrentState) -> Carried:
    """What a bound block takes of a layer's state."""
    return state.kv if isinstance(state, RetentionState) else cast("KeyValueState", state)


def state_with(carried: Carried, position: Int[Tensor, "batch"]) -> RecurrentState:
    """The layer's state of what a bound block gives, after ``position`` tokens."""
    return RetentionState(kv=carried, position=position) if isinstance(carried, Tensor) else carried


def add_to_residual(
    x: Hidden, output: Hidden, norm: Norm, residual_scale: float | None, seen_by: tuple[nn.Module, ...]
) -> Hidden:
    """Add what a layer returned to the residual stream, normalised afterwards where there is a scale.

    Args:
        x: The residual stream.
        output: Of the layer; the sum is written over it where nothing else can need it, for new memory takes longer.
        norm: Of the layer.
        residual_scale: Of DeepNorm, or None.
        seen_by: The layer, and other modules that ``output`` came through: their hooks may have kept it.
    """
    with threads_for(x):
        if residual_scale is None:
            return output.add_(x) if _may_add_over(output, x, seen_by) else x + output
        scaled = residual_scale * x + output
    return norm(scaled)


def _may_add_over(output: Tensor, x: Tensor, seen_by: tuple[nn.Module, ...]) -> bool:
    if output.dtype is not x.dtype or not all(has_no_hooks(module) for module in seen_by):
        return False
    if torch.is_grad_enabled():  # of other memory, something that computes again what gradients need may keep a part
        return is_lean(output)
    last = getattr(seen_by[0], "output_proj", None)
    return type(last) is nn.Linear and has_no_hooks(last)
