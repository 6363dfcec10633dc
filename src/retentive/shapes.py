"""The legend of dimensions, and every tensor shape that two files share.

Dimensions, as they stand in annotations:

- ``batch``: sequences computed side by side.
- ``time``: tokens of one call, real ones and padding.
- ``heads``: heads of queries, decay and state; ``kv_heads`` where key and value heads are fewer.
- ``key_dim``, ``value_dim``: width of one head.
- ``hidden``: width of the residual stream.
- ``slots``: memory tokens.
- ``vocab``: number of token ids.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Tokens = Int[Tensor, "batch time"]
"""Token ids. As labels, ``-100`` marks a position that has no loss."""

TokenMask = Bool[Tensor, "batch time"]
"""One flag per token: as ``mask``, True is a real token and False is padding; as ``starts``, True begins a document."""

TokenFlags = TokenMask | None
"""``mask`` or ``starts`` of a call; None where there is nothing to tell."""

Hidden = Float[Tensor, "batch time hidden"]
"""The residual stream."""

HiddenRows = Float[Tensor, "*tokens hidden"]
"""The residual stream of one token of each row, ``(batch, hidden)``, or of all tokens of a call."""

Logits = Float[Tensor, "batch time vocab"]
"""Unnormalised log-probabilities of the next token."""

Positions = Int[Tensor, "#batch time"]
"""Position of each token in its document, from 0; one row serves all rows where they agree."""

Queries = Float[Tensor, "batch heads time key_dim"]
"""Queries, rotated and scaled by ``key_dim ** -0.5``; keys of as many heads have this shape too."""

Values = Float[Tensor, "batch heads time value_dim"]
"""What each token adds to the state, or what each query reads from it."""

Memory = Float[Tensor, "batch slots hidden"]
"""Memory tokens, as one segment writes them and the next reads them: float32 or wider."""

RotaryTable = Float[Tensor, "#batch time half_key_dim"]
"""Cosine or sine of each token's angle, a column for each pair of channels."""

RetentionMatrix = Float[Tensor, "batch heads key_dim value_dim"]
"""The state of retention: the decayed sum of ``key value^T`` over all tokens so far, float32 or wider."""

LogDecay = Float[Tensor, "heads"]
"""``log(gamma)`` of each head, in float64, below or equal to 0."""

TokenLogDecay = Float[Tensor, "batch heads time"]
"""``log(gamma)`` of each head at each token, below or equal to 0."""
