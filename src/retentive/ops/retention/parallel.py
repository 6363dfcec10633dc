"""The parallel form: all scores at once, quadratic in time and memory."""

from retentive.ops.precision import state_dtype, without_autocast
from retentive.ops.retention.decay import DecayTables, decay_tables
from retentive.ops.retention.inputs import (
    check_inputs,
    check_tokens,
    initial_state,
    resolve_log_decay,
    retention_dtype,
    without_padding,
)
from retentive.shapes import LogDecay, Queries, RetentionMatrix, TokenMask, Values


def retention_parallel(
    query: Queries,
    key: Queries,
    value: Values,
    state: RetentionMatrix | None = None,
    *,
    log_decay: LogDecay | None = None,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
) -> tuple[Values, RetentionMatrix]:
    """Run retention as one masked matrix product (Sun et al. 2023, arXiv:2307.08621, eq. 5).

    The form to read, and to compare with; `retention_chunkwise` gives the same in linear time and memory.

    Args:
        query: Rotated and scaled by ``key_dim ** -0.5``; no scaling happens here.
        key: Rotated.
        value: What each token adds to the state.
        state: Where an earlier call stopped; ``None`` starts from nothing.
        log_decay: ``log(gamma)`` of each head, at most 0; ``None`` takes `log_decay_geometric`.
        mask: False at padding, anywhere: it neither decays nor adds, its output is 0 and it gets no gradient.
        starts: True where a document begins: what came before, the incoming state too, is forgotten.

    Returns:
        The outputs in the dtype of the inputs, and the state after the last token in float32 or wider.

    Raises:
        TypeError: If dtypes differ or are not floating-point.
        ValueError: If shapes do not fit, or ``log_decay`` is above 0.
    """
    check_inputs(query, key, value, state)
    check_tokens(query, mask, starts)
    rate = resolve_log_decay(log_decay, query)
    dtype = retention_dtype(query)
    wide = state_dtype(dtype)
    tables = decay_tables(rate, query.shape[2], wide, mask, starts)
    q, k, v = (tensor.to(dtype) for tensor in without_padding(query, key, value, mask))
    before = initial_state(state, key, value, wide)
    output, after = read_at_once(q, k, v, before, tables)
    if mask is not None:
        output = output.masked_fill(~mask[:, None, :, None], 0)
    return output.to(query.dtype), after


def read_at_once(
    query: Queries, key: Queries, value: Values, state: RetentionMatrix, tables: DecayTables
) -> tuple[Values, RetentionMatrix]:
    """Compute outputs and last state from checked inputs and the tables of one chunk that holds all tokens."""
    with without_autocast(query.device):
        scores = (query @ key.mT) * tables.intra[:, :, 0]
        from_state = (query @ state.to(query.dtype)) * tables.query[:, :, 0]
        output = scores.to(query.dtype) @ value + from_state
        after = tables.chunk[:, :, 0] * state + (key * tables.key[:, :, 0]).mT @ value.to(state.dtype)
    return output, after
