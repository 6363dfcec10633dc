"""One block of a decoder: a mixer and a feed-forward, each normalised first and added to the residual stream."""

from dataclasses import replace
from typing import cast

from torch import nn

from retentive.layers.attention import Attention, AttentionConfig, KeyValueState, Recalled
from retentive.layers.feed_forward import FeedForward, FeedForwardConfig
from retentive.layers.layout import Layout
from retentive.layers.norm import Norm, NormConfig
from retentive.layers.retention import MultiScaleRetention, RetentionConfig, RetentionState
from retentive.shapes import Hidden
from retentive.state import RecurrentState

MixerConfig = AttentionConfig | RetentionConfig
Mixer = Attention | MultiScaleRetention


class Block(nn.Module):
    """``x + mixer(norm(x))``, then ``x + feed_forward(norm(x))`` (eq. 9 of arXiv:2307.08621)."""

    def __init__(self, mixer: MixerConfig, feed_forward: FeedForwardConfig, norm: NormConfig, dropout: float) -> None:
        """Make the layers; the mixer's config decides between attention and retention."""
        super().__init__()
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
        normed = self.mixer_norm(x)
        if isinstance(self.mixer, Attention):
            if recalled is not None:
                recalled = replace(recalled, hidden=self.mixer_norm(recalled.hidden))
            mixed, following = self.mixer(normed, cast("KeyValueState | None", state), layout, recalled)
        else:
            assert recalled is None, "retention has no keys to recall"
            mixed, following = self.mixer(normed, cast("RetentionState | None", state), layout)
        x = x + self.dropout(mixed)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), following
