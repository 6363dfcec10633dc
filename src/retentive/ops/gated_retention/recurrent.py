"""The recurrent form: one token, constant time and memory."""

from jaxtyping import Float
from torch import Tensor

from retentive.ops.gated_retention.decay import check_log_decay, token_decay
from retentive.ops.precision import state_dtype
from retentive.ops.retention.inputs import check_inputs, initial_state
from retentive.ops.retention.recurrent import recurrent_step
from retentive.shapes import RetentionMatrix


def gated_retention_recurrent(
    query: Float[Tensor, "batch heads key_dim"],
    key: Float[Tensor, "batch heads key_dim"],
    value: Float[Tensor, "batch heads value_dim"],
    state: RetentionMatrix | None = None,
    *,
    log_decay: Float[Tensor, "batch heads"],
) -> tuple[Float[Tensor, "batch heads value_dim"], RetentionMatrix]:
    """Run gated retention for one token (Sun et al. 2024, arXiv:2405.05254, section 3.1).

    The inner loop of a decoder calls `recurrent_step` with the decay that `token_decay` returns: it does the same
    without checks, and can overwrite the state.

    Args:
        query: Of the one token, rotated and scaled by ``key_dim ** -0.5``.
        key: Of the one token, rotated.
        value: What the token adds to the state.
        state: Where an earlier call stopped, left as it is; ``None`` starts from nothing.
        log_decay: ``log(gamma)`` of each head at the one token, at most 0; ``-inf`` forgets everything before.

    Returns:
        The output in the dtype of the inputs, and the state after the token in float32 or wider.

    Raises:
        TypeError: If dtypes differ or are not floating-point.
        ValueError: If shapes do not fit.
    """
    check_inputs(query, key, value, state, "(batch, heads, dim)")
    check_log_decay(log_decay, query.shape[:2], "(batch, heads)")
    wide = state_dtype(query.dtype)
    before = initial_state(state, key, value, wide)
    return recurrent_step(query, key, value, before, token_decay(log_decay, wide))
