"""One name for all forms."""

from retentive.ops.gated_retention.chunkwise import gated_retention_chunkwise
from retentive.ops.gated_retention.decay import check_log_decay, effective_log_decay, token_decay
from retentive.ops.gated_retention.parallel import gated_retention_parallel
from retentive.ops.precision import state_dtype
from retentive.ops.retention.chunks import DEFAULT_CHUNK_SIZE
from retentive.ops.retention.dispatch import Form
from retentive.ops.retention.inputs import check_inputs, check_tokens
from retentive.ops.retention.recurrent import recurrent_steps
from retentive.shapes import Queries, RetentionMatrix, TokenLogDecay, TokenMask, Values


def gated_retention(
    query: Queries,
    key: Queries,
    value: Values,
    state: RetentionMatrix | None = None,
    *,
    log_decay: TokenLogDecay,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
    form: Form = "auto",
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[Values, RetentionMatrix]:
    """Run gated retention over a sequence in any of its forms, which all compute the same (arXiv:2405.05254).

    ``"auto"`` takes the recurrent form for one token and the chunkwise form for more. ``"recurrent"`` goes token by
    token.

    Args:
        query: Rotated and scaled by ``key_dim ** -0.5``; no scaling happens here.
        key: Rotated.
        value: What each token adds to the state.
        state: Where an earlier call stopped; ``None`` starts from nothing.
        log_decay: ``log(gamma)`` of each head and token, at most 0; ``-inf`` forgets everything before. See
            `log_decay_gate`.
        mask: False at padding, anywhere: it neither decays nor adds, its output is 0 and it gets no gradient.
        starts: True where a document begins: what came before, the incoming state too, is forgotten.
        form: Changes speed, never results.
        chunk_size: Tokens per chunk of the chunkwise form.

    Returns:
        The outputs in the dtype of the inputs, and the state after the last token in float32 or wider.

    Raises:
        TypeError: If dtypes differ or are not floating-point.
        ValueError: If shapes do not fit, or ``form`` is unknown.
    """
    if form == "parallel":
        return gated_retention_parallel(query, key, value, state, log_decay=log_decay, mask=mask, starts=starts)
    if form == "recurrent" or (form == "auto" and query.dim() == 4 and query.shape[2] == 1):
        check_inputs(query, key, value, state)
        check_tokens(query, mask, starts)
        check_log_decay(log_decay, query.shape[:3], "(batch, heads, time)")
        decays = token_decay(effective_log_decay(log_decay, mask, starts), state_dtype(query.dtype))
        return recurrent_steps(query, key, value, state, decays.unbind(2), mask=mask, starts=starts)
    if form in ("auto", "chunkwise"):
        return gated_retention_chunkwise(
            query, key, value, state, log_decay=log_decay, mask=mask, starts=starts, chunk_size=chunk_size
        )
    raise ValueError(f'form must be "auto", "parallel", "recurrent" or "chunkwise", but is {form!r}.')
