"""The parallel form: all scores at once, quadratic in time and memory."""

from retentive.ops.gated_retention.decay import check_log_decay, effective_log_decay, token_decay_tables
from retentive.ops.precision import state_dtype
from retentive.ops.retention.inputs import check_inputs, check_tokens, initial_state, retention_dtype, without_padding
from retentive.ops.retention.parallel import read_at_once
from retentive.shapes import Queries, RetentionMatrix, TokenLogDecay, TokenMask, Values


def gated_retention_parallel(
    query: Queries,
    key: Queries,
    value: Values,
    state: RetentionMatrix | None = None,
    *,
    log_decay: TokenLogDecay,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
) -> tuple[Values, RetentionMatrix]:
    """Run gated retention as one masked matrix product (Sun et al. 2024, arXiv:2405.05254, section 3.1).

    The form to read, and to compare with; `gated_retention_chunkwise` gives the same in linear time and memory. Its
    derivatives can be taken any number of times.

    Args:
        query: Rotated and scaled by ``key_dim ** -0.5``; no scaling happens here.
        key: Rotated.
        value: What each token adds to the state.
        state: Where an earlier call stopped; ``None`` starts from nothing.
        log_decay: ``log(gamma)`` of each head and token, at most 0; ``-inf`` forgets everything before.
        mask: False at padding, anywhere: it neither decays nor adds, its output is 0 and it gets no gradient.
        starts: True where a document begins: what came before, the incoming state too, is forgotten.

    Returns:
        The outputs in the dtype of the inputs, and the state after the last token in float32 or wider.

    Raises:
        TypeError: If dtypes differ or are not floating-point.
        ValueError: If shapes do not fit.
    """
    check_inputs(query, key, value, state)
    check_tokens(query, mask, starts)
    check_log_decay(log_decay, query.shape[:3], "(batch, heads, time)")
    dtype = retention_dtype(query)
    wide = state_dtype(dtype)
    rate = effective_log_decay(log_decay, mask, starts)
    tables = token_decay_tables(rate.unsqueeze(2), wide, None if starts is None else starts.unsqueeze(1))
    q, k, v = (tensor.to(dtype) for tensor in without_padding(query, key, value, mask))
    output, after = read_at_once(q, k, v, initial_state(state, key, value, wide), tables)
    if mask is not None:
        output = output.masked_fill(~mask[:, None, :, None], 0)
    return output.to(query.dtype), after
