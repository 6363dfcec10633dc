"""Gated retention is retention whose decay is of each token: its names, over the forms of retention."""

from functools import partial

from retentive.ops.gated_retention.decay import check_log_decay, effective_log_decay
from retentive.ops.gated_retention.decay_per_token import TokenDecay
from retentive.ops.gated_retention.reference import gated_reference
from retentive.ops.retention.chunks import DEFAULT_CHUNK_SIZE
from retentive.ops.retention.dispatch import Form, run_form
from retentive.ops.retention.inputs import checked_inputs
from retentive.shapes import Queries, RetentionMatrix, TokenFlags, TokenLogDecay, Values


def gated_retention(
    query: Queries,
    key: Queries,
    value: Values,
    state: RetentionMatrix | None = None,
    *,
    log_decay: TokenLogDecay,
    mask: TokenFlags = None,
    starts: TokenFlags = None,
    form: Form = "auto",
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Values, RetentionMatrix]:
    """Run gated retention over a sequence in any of its forms, which all compute the same (arXiv:2405.05254).

    ``log_decay`` is ``log(gamma)`` of each head and token, at most 0; ``-inf`` forgets everything before. See
    `log_decay_gate`. Its values are not checked. All else, result and errors too, is as in `retention`.
    """
    inputs = checked_inputs(query, key, value, state, (mask, starts))
    check_log_decay(log_decay, query.shape[:3], "(batch, heads, time)")
    decay = TokenDecay(effective_log_decay(log_decay, mask, starts))
    return run_form(form, inputs, decay, chunk_size, lambda inputs: gated_reference(inputs, log_decay))


gated_retention_parallel = partial(gated_retention, form="parallel")
"""Run `gated_retention` as one masked matrix product (Sun et al. 2024, arXiv:2405.05254, section 3.1).

The form to read, and to compare with; `gated_retention_chunkwise` gives the same in linear time and memory. Its
derivatives can be taken any number of times.
"""

gated_retention_chunkwise = partial(gated_retention, form="chunkwise")
"""Run `gated_retention` chunk by chunk (Sun et al. 2024, arXiv:2405.05254, section 3.1), for any length.

The backward pass keeps the inputs and one state per chunk, and computes decays and scores again. Where a
gradient is differentiated, and in compiled or functionally transformed code, plain operations take its place.
"""

gated_retention_reference = partial(gated_retention, form="reference")
"""Run `gated_retention` token by token, in float64 whatever the inputs: slow; all forms are tested against it."""
