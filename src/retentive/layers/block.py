"""One block of a decoder: a mixer and a feed-forward, each added to the residual stream."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from retentive.layers.batch_layout import BatchLayout
from retentive.layers.feed_forward import FeedForward, FeedForwardConfig
from retentive.layers.mixers.key_value_cache import KeysAndValues
from retentive.layers.mixers.protocol import Mixer, MixerConfig, Recalled, RecallingMixer, build_mixer
from retentive.layers.norm import Norm, NormConfig
from retentive.layers.token_place import TokenPlace
from retentive.shapes import Hidden, HiddenRows
from retentive.state import RecurrentState

Between = Callable[[Any], Any]
"""Done to the residual stream between the halves of a block, such as letting it read neighbours."""


class Block(nn.Module):
    """``x + mixer(norm(x))``, then ``x + feed_forward(norm(x))`` (eq. 9 of arXiv:2307.08621).

    With a ``residual_scale`` a, it is ``norm(a * x + mixer(x))``, then ``norm(a * x + feed_forward(x))``: DeepNorm
    (Wang et al. 2022, arXiv:2203.00555).
    """

    mixer: Mixer
    stepped = ("mixer",)
    """Parts whose ``step`` this one's calls; `retentive.engine.lookup` asks whether they can be called instead."""

    def __init__(
        self,
        mixer: MixerConfig,
        feed_forward: FeedForwardConfig,
        norm: NormConfig,
        dropout: float,
        residual_scale: float | None = None,
    ) -> None:
        """Make the layers; the mixer's config makes the mixer."""
        super().__init__()
        self.residual_scale = residual_scale
        self.mixer_norm = Norm(mixer.hidden_size, norm)
        self.mixer = build_mixer(mixer)
        self.feed_forward_norm = Norm(mixer.hidden_size, norm)
        self.feed_forward = FeedForward(feed_forward)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Hidden,
        state: RecurrentState | None,
        layout: BatchLayout,
        recalled: Recalled | KeysAndValues | None = None,
        between: Between | None = None,
    ) -> tuple[Hidden, RecurrentState]:
        """Carry the residual stream through the block.

        Args:
            x: The residual stream.
            state: The mixer's state from the last call; None is the initial state.
            layout: Where each token stands.
            recalled: Transformer-XL memory: this block's inputs for earlier tokens, or their keys and values; only for
                a `RecallingMixer`.
            between: Function of the residual stream, called between mixer and feed-forward. (FSDP gathers the
                parameters of a block when the block is called, so its halves are never called from outside.)
        """
        read = self._read(x, self.mixer_norm)
        if recalled is None:
            mixed, following = self.mixer(read, state, layout)
        else:
            again = self._recall(recalled) if isinstance(recalled, Recalled) else recalled
            mixed, following = cast("Any", self.mixer)(read, state, layout, again)
        x = self._add(x, mixed, self.mixer_norm)
        if between is not None:
            x = between(x)
        fed = self.feed_forward(self._read(x, self.feed_forward_norm))
        return self._add(x, fed, self.feed_forward_norm), following

    def step(
        self, x: HiddenRows, state: RecurrentState, place: TokenPlace, between: Between | None = None
    ) -> tuple[HiddenRows, RecurrentState]:
        """Carry one token of each row, ``(batch, hidden)``, through the block."""
        norm_first = self.residual_scale is None
        mixed, following = self.mixer.step(self.mixer_norm(x) if norm_first else x, state, place)
        x = self._add(x, mixed, self.mixer_norm)
        if between is not None:
            x = between(x)
        fed = self.feed_forward(self.feed_forward_norm(x) if norm_first else x)
        return self._add(x, fed, self.feed_forward_norm), following

    def _recall(self, recalled: Recalled) -> KeysAndValues:
        """Keys and values of the inputs for earlier tokens."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and recalled.learns):
            if self.residual_scale is None:
                recalled = replace(recalled, hidden=self.mixer_norm(recalled.hidden))
            return cast("RecallingMixer", self.mixer).recall(recalled)

    def _read(self, x: HiddenRows, norm: Norm) -> HiddenRows:
        """The input of a half, normalised; with DeepNorm sums are normalised instead."""
        return norm(x) if self.residual_scale is None else x

    def _add(self, x: HiddenRows, output: HiddenRows, norm: Norm) -> HiddenRows:
        """The residual stream with a half's output added."""
        dropped = self.dropout(output)
        return x + dropped if self.residual_scale is None else norm(self.residual_scale * x + dropped)
