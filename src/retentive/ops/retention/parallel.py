"""The parallel form: all scores at once, quadratic in time and memory. The form to read, and to compare with."""

from retentive.ops.precision import state_dtype, without_autocast
from retentive.ops.retention.decay import DecayTables
from retentive.ops.retention.inputs import RetentionInputs, retention_dtype
from retentive.ops.retention.protocol import Decay
from retentive.shapes import Queries, RetentionMatrix, Values


def parallel(inputs: RetentionInputs, decay: Decay) -> tuple[Values, RetentionMatrix]:
    """Read one masked matrix product (Sun et al. 2023, arXiv:2307.08621, eq. 5)."""
    dtype = retention_dtype(inputs.query)
    wide = state_dtype(dtype)
    tables = decay.tables(inputs.query.shape[2], wide, inputs.mask, inputs.starts)
    return read_at_once(*inputs.to(dtype), inputs.initial_state(wide), tables)


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
