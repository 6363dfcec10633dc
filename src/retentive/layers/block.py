"""One block of a decoder: a mixer and a feed-forward, each added to the residual stream."""

from dataclasses import replace
from typing import cast

from torch import Tensor, nn

from retentive.layers.attention import Attention, AttentionConfig, KeyValueState, Recalled
from retentive.layers.bound import may_overwrite
from retentive.layers.feed_forward import FeedForward, FeedForwardConfig
from retentive.layers.layout import Layout
from retentive.layers.norm import Norm, NormConfig
from retentive.layers.retention import BoundRetention, MultiScaleRetention, RetentionConfig, RetentionState
from retentive.shapes import Hidden
from retentive.state import RecurrentState

MixerConfig = AttentionConfig | RetentionConfig
Mixer = Attention | MultiScaleRetention


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
        self, x: Hidden, state: RecurrentState | None, layout: Layout, recalled: Recalled | None = None
    ) -> tuple[Hidden, RecurrentState]:
        """Carry the residual stream through the block.

        Args:
            x: The residual stream.
            state: The mixer's, from the last call; None begins anew.
            layout: Where each token stands.
            recalled: What this block received for earlier tokens, read again; for attention alone.
        """
        x, following = self.mix(x, state, layout, recalled)
        return self.feed(x), following

    def mix(
        self, x: Hidden, state: RecurrentState | None, layout: Layout, recalled: Recalled | None = None
    ) -> tuple[Hidden, RecurrentState]:
        """The first half: tokens read one another. Arguments are those of `forward`."""
        is_post_norm = self.residual_scale is not None
        read = x if is_post_norm else self.mixer_norm(x)
        if isinstance(self.mixer, Attention):
            if recalled is not None and not is_post_norm:
                recalled = replace(recalled, hidden=self.mixer_norm(recalled.hidden))
            mixed, following = self.mixer(read, cast("KeyValueState | None", state), layout, recalled)
        else:
            assert recalled is None, "retention has no keys to recall"
            mixed, following = self.mixer(read, cast("RetentionState | None", state), layout)
        if self._may_add_over(mixed, x, self.mixer):
            return mixed.add_(x), following
        return add_to_residual(x, self._drop(mixed), self.mixer_norm, self.residual_scale), following

    def feed(self, x: Hidden) -> Hidden:
        """The second half: each token by itself."""
        read = x if self.residual_scale is not None else self.feed_forward_norm(x)
        output = self.feed_forward(read)
        if self._may_add_over(output, x, self.feed_forward):
            return output.add_(x)
        return add_to_residual(x, self._drop(output), self.feed_forward_norm, self.residual_scale)

    def bound(self) -> BoundRetention | None:
        """`forward` for one token over the present parameters, see `retentive.layers.bound`; None if it cannot be."""
        if not isinstance(self.mixer, MultiScaleRetention) or self.residual_scale is not None:
            return None
        mix, feed = self.mixer.bound(), self.feed_forward.bound()
        if mix is None:
            return None
        mixer_norm, feed_forward_norm = self.mixer_norm.bound(), self.feed_forward_norm.bound()

        def apply(x: Tensor, kv: Tensor, turns: Tensor | None) -> tuple[Tensor, Tensor]:
            mixed, kv = mix(mixer_norm(x), kv, turns)
            x = x + mixed
            return x.add_(feed(feed_forward_norm(x))), kv

        return apply

    def _may_add_over(self, output: Hidden, x: Hidden, layer: Mixer | FeedForward) -> bool:
        """Whether ``x`` can be added into what ``layer`` returned: new memory takes longer than the sum."""
        is_plain_sum = self.residual_scale is None and not self.training and output.dtype is x.dtype
        return is_plain_sum and may_overwrite(layer) and may_overwrite(layer.output_proj)

    def _drop(self, output: Hidden) -> Hidden:
        return self.dropout(output) if self.training else output


def add_to_residual(x: Hidden, output: Hidden, norm: Norm, residual_scale: float | None) -> Hidden:
    """Add what a layer returned to the residual stream, normalised afterwards where there is a scale."""
    return x + output if residual_scale is None else norm(residual_scale * x + output)
